//! Where a WebSocket's frames begin and end (RFC 6455, 5.2), without a look at what is in them.

use axum::extract::ws::CloseCode;

/// Opcodes from here on are of control frames.
const CONTROL: u8 = 8;
const CLOSE: u8 = 8;
/// The longest head: two bytes, eight of length, four of mask.
const HEAD: usize = 14;
/// A control frame has room for so many bytes, two of them for the code.
const CONTROL_BYTES: usize = 125;

/// What has passed in one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Of a frame whose head has not come whole.
    head: [u8; HEAD],
    known: usize,
    /// Bytes of the frame that are still to come.
    left: u64,
    has_data: bool,
    is_closed: bool,
}

impl Frames {
    /// These bytes have passed, after those before.
    pub(super) fn passed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.known] = *first;
            self.known += 1;
            bytes = rest;
            if self.known >= 2 && self.known == self.head_len() {
                self.begin();
            }
        }
    }

    /// Whether a frame of our own may come next.
    pub(super) fn is_between(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Whether the frame that says that no more come has passed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether anything but signs of life has passed since this was asked last.
    pub(super) fn take_data(&mut self) -> bool {
        std::mem::take(&mut self.has_data)
    }

    fn head_len(&self) -> usize {
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn begin(&mut self) {
        let head = &self.head;
        self.left = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([head[2], head[3]])),
            127 => head[2..10].iter().fold(0, |length, byte| (length << 8) | u64::from(*byte)),
            length => u64::from(length),
        };
        let opcode = head[0] & 0x0f;
        self.has_data |= opcode < CONTROL;
        self.is_closed |= opcode == CLOSE;
        self.known = 0;
    }
}

/// A server's frame that closes the connection.
pub(super) fn close_frame(code: CloseCode, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES - 2)];
    let mut frame = vec![0x80 | CLOSE, reason.len() as u8 + 2];
    frame.extend(code.to_be_bytes());
    frame.extend(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    fn frame(len: usize, opcode: OpCode, mask: Option<[u8; 4]>) -> Vec<u8> {
        let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
        let mut bytes = Vec::new();
        Frame::from_payload(header, vec![0x88; len].into()).format(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn frames_are_told_apart_however_they_are_cut(
            lens in prop::collection::vec((prop_oneof![0..200_usize, 65_000..66_000_usize], any::<bool>()), 1..6),
            cut in 1..70_000_usize,
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (len, is_masked) in lens {
                bytes.extend(frame(len, OpCode::Data(Data::Text), is_masked.then_some([1, 2, 3, 4])));
                ends.push(bytes.len());
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for part in bytes.chunks(cut) {
                frames.passed(part);
                at += part.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&at));
            }
            prop_assert!(frames.take_data() && !frames.take_data() && !frames.is_closed());
        }
    }

    #[test]
    fn signs_of_life_are_not_data_and_an_end_is_known() {
        let mut frames = Frames::default();
        frames.passed(&frame(4, OpCode::Control(Control::Pong), Some([1; 4])));
        assert!(!frames.take_data() && !frames.is_closed());
        frames.passed(&close_frame(1013, &"ä".repeat(100)));
        assert!(frames.is_closed() && frames.is_between() && !frames.take_data());
    }

    #[test]
    fn what_closes_a_connection_reads_as_such() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &near, &close_frame(1013, "connect again")).unwrap();
        let role = tungstenite::protocol::Role::Client;
        let mut client = tungstenite::WebSocket::from_raw_socket(far, role, None);
        let tungstenite::Message::Close(Some(frame)) = client.read().unwrap() else { panic!("no close") };
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Again, "connect again"));
    }
}
