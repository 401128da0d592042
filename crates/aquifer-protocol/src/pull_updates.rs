//! The protobuf messages of `POST /pull-updates`, by hand: field numbers as Turso's clients have them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType};

/// How the pages of an answer are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PageEncoding {
    /// As they are: 4096 bytes each. The only one that Turso's own clients read.
    Raw = 0,
    /// Each page a zstd frame of its own.
    Zstd = 1,
}

/// What the client does with the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum ApplyMode {
    /// Writes them over what it has.
    Incremental = 0,
    /// Forgets what it has first: the answer does not continue the client's history.
    ReplaceBase = 1,
}

/// What an answer is a stream of. Aquifer sends pages only, also to those who ask for a logical log: they take both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum StreamKind {
    /// Page images.
    Pages = 0,
    /// Turso's MVCC logical log.
    MvccLogicalLog = 1,
}

/// Which protocol the server speaks. Without it old clients guess from the shape of the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Protocol {
    /// Servers before Turso 0.8 leave it out.
    Unspecified = 0,
    /// Page images.
    Pages = 1,
    /// Turso's MVCC logical log.
    MvccLogical = 2,
}

/// A request. The body of a first bootstrap is empty, which is this message with every field at its default.
#[derive(Clone, PartialEq, Message)]
pub struct PullRequest {
    /// How the client wants its pages.
    #[prost(enumeration = "PageEncoding", tag = "1")]
    pub encoding: i32,
    /// The revision that the answer shall bring; empty = the latest.
    #[prost(string, tag = "2")]
    pub server_revision: String,
    /// The revision that the client has; empty = none.
    #[prost(string, tag = "3")]
    pub client_revision: String,
    /// How long to wait for something newer than what the client has, in milliseconds.
    #[prost(uint32, tag = "4")]
    pub long_poll_timeout_ms: u32,
    /// A serialised Roaring bitmap of 0-based page ids; empty = all pages.
    #[prost(bytes = "bytes", tag = "5")]
    pub server_pages_selector: Bytes,
    /// The pages that the client has; a hint that may be ignored.
    #[prost(bytes = "bytes", tag = "6")]
    pub client_pages: Bytes,
    /// SQL: the pages that running it touches are wanted.
    #[prost(string, tag = "7")]
    pub server_query_selector: String,
    /// What the client would like a stream of.
    #[prost(enumeration = "StreamKind", tag = "8")]
    pub stream_kind: i32,
}

/// The first message of an answer.
#[derive(Clone, PartialEq, Message)]
pub struct PullHeader {
    /// The revision that the client has once it applied the answer.
    #[prost(string, tag = "1")]
    pub server_revision: String,
    /// Size of the database at that revision, in pages.
    #[prost(uint64, tag = "2")]
    pub db_size: u64,
    /// There if the pages are as they are, also if there are none.
    #[prost(message, optional, tag = "3")]
    pub raw_encoding: Option<RawEncoding>,
    /// There if the pages are zstd frames.
    #[prost(message, optional, tag = "4")]
    pub zstd_encoding: Option<ZstdEncoding>,
    /// What follows.
    #[prost(enumeration = "StreamKind", tag = "5")]
    pub stream_kind: i32,
    /// What to do with it.
    #[prost(enumeration = "ApplyMode", tag = "6")]
    pub apply_mode: i32,
    /// Which protocol this is.
    #[prost(enumeration = "Protocol", tag = "8")]
    pub protocol: i32,
}

/// Pages as they are.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RawEncoding {}

/// Pages as zstd frames.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ZstdEncoding {
    /// The level they were compressed at; of no use for reading them.
    #[prost(int32, tag = "1")]
    pub level: i32,
    /// Ids of pages that serve as the dictionary of the others; Aquifer uses none.
    #[prost(uint32, repeated, tag = "2")]
    pub pages_dict: Vec<u32>,
}

/// One page of an answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PageData {
    /// 0-based.
    #[prost(uint64, tag = "1")]
    pub page_id: u64,
    /// In the encoding that the header names.
    #[prost(bytes = "bytes", tag = "2")]
    pub encoded_page: Bytes,
}

/// Appends a length-delimited [`PageData`], without a copy of the page in between.
pub fn put_page(out: &mut BytesMut, page_id: u32, encoded: &[u8]) {
    let id_len = if page_id == 0 { 0 } else { 1 + encoding::encoded_len_varint(u64::from(page_id)) };
    let page_len = 1 + encoding::encoded_len_varint(encoded.len() as u64) + encoded.len();
    encoding::encode_varint((id_len + page_len) as u64, out);
    if page_id != 0 {
        encoding::encode_key(1, WireType::Varint, out);
        encoding::encode_varint(u64::from(page_id), out);
    }
    encoding::encode_key(2, WireType::LengthDelimited, out);
    encoding::encode_varint(encoded.len() as u64, out);
    out.put_slice(encoded);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(digits: &str) -> Vec<u8> {
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    /// Bodies that pyturso 0.8.3 sent.
    #[test]
    fn recorded_requests_are_read_and_written_byte_for_byte() {
        let request = |change: &dyn Fn(&mut PullRequest)| {
            let mut request = PullRequest::default();
            change(&mut request);
            request
        };
        let first_16 = Bytes::from(hex("3b3000000100000f00010000000f00"));
        let next_16 = Bytes::from(hex("3b3000000100000f00010010000f00"));
        for (body, expected) in [
            ("", request(&|_| {})),
            ("1a0130", request(&|r| r.client_revision = "0".into())),
            ("1a023130", request(&|r| r.client_revision = "10".into())),
            ("2a0f3b3000000100000f00010000000f00", request(&|r| r.server_pages_selector = first_16.clone())),
            (
                "12033136312a0f3b3000000100000f00010010000f00",
                request(&|r| {
                    r.server_revision = "161".into();
                    r.server_pages_selector = next_16.clone();
                }),
            ),
            (
                "1a033137364001",
                request(&|r| {
                    r.client_revision = "176".into();
                    r.set_stream_kind(StreamKind::MvccLogicalLog);
                }),
            ),
        ] {
            assert_eq!(PullRequest::decode(&hex(body)[..]).unwrap(), expected, "{body}");
            assert_eq!(expected.encode_to_vec(), hex(body), "{body}");
        }
    }

    /// Header frames that tursodb 0.8.0 sent, without their length.
    #[test]
    fn recorded_headers_are_written_byte_for_byte() {
        for (revision, pages, body) in [
            ("0", 0, "0a01301a004001"),
            ("4", 4, "0a013410041a004001"),
            ("10", 5, "0a02313010051a004001"),
            ("161", 110, "0a03313631106e1a004001"),
        ] {
            let mut header = PullHeader {
                server_revision: revision.into(),
                db_size: pages,
                raw_encoding: Some(RawEncoding {}),
                ..PullHeader::default()
            };
            header.set_protocol(Protocol::Pages);
            assert_eq!(header.encode_to_vec(), hex(body));
            assert_eq!(PullHeader::decode(&hex(body)[..]).unwrap(), header);
        }
    }

    /// What the recorded page frames begin with.
    #[test]
    fn recorded_page_frames_are_written_byte_for_byte() {
        for (page_id, page_begin, frame) in [
            (
                0,
                "53514c69746520666f726d61742033001000020200",
                "12802053514c69746520666f726d61742033001000020200",
            ),
            (1, "0d000000010fd0000fd0000000000000000000", "08011280200d000000010fd0000fd0000000000000000000"),
            (
                12,
                "0d00000001024d00024d000000000000000000",
                "080c1280200d00000001024d00024d000000000000000000",
            ),
        ] {
            let mut page = hex(page_begin);
            page.resize(4096, 0);
            let mut out = BytesMut::new();
            put_page(&mut out, page_id, &page);
            // The whole frame has 4099 bytes (4101 with an id) behind its length of two bytes.
            let expected = hex(frame);
            assert_eq!(&out[2..2 + expected.len()], &expected[..]);
            assert_eq!(out.len(), 2 + 4099 + if page_id == 0 { 0 } else { 2 });
        }
    }

    /// Content-length of recorded answers: 16 pages with ids from 0, and 16 from 16.
    #[test]
    fn a_recorded_answers_length_is_reached_to_the_byte() {
        for (first, length) in [(0, 65_658), (16, 65_660)] {
            let mut out = BytesMut::new();
            let mut header = PullHeader {
                server_revision: "161".into(),
                db_size: 110,
                raw_encoding: Some(RawEncoding {}),
                ..PullHeader::default()
            };
            header.set_protocol(Protocol::Pages);
            header.encode_length_delimited(&mut out).unwrap();
            for page_id in first..first + 16 {
                put_page(&mut out, page_id, &[0; 4096]);
            }
            assert_eq!(out.len(), length);
        }
    }

    proptest! {
        #[test]
        fn a_page_is_written_as_the_message_says(
            page_id in any::<u32>(), page in prop::collection::vec(any::<u8>(), 1..9000),
        ) {
            let mut out = BytesMut::new();
            put_page(&mut out, page_id, &page);
            let message = PageData { page_id: u64::from(page_id), encoded_page: page.into() };
            prop_assert_eq!(&out[..], &message.encode_length_delimited_to_vec()[..]);
        }

        #[test]
        fn any_body_is_a_request_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PullRequest::decode(&body[..]);
        }
    }
}
