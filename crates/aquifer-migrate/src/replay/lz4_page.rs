//! A page as an LZ4 frame, as the earlier files of Litestream 0.5 have it.
//!
//! Read here and not by the library's decoder, which makes its buffers anew for each frame: for a page that takes longer
//! than all the rest. Checksums of the frame are passed over, since that of the file covers the page.
//!
//! Source: lz4's `lz4_Frame_format.md`.

use std::io::{self, Read};

const MAGIC: u32 = 0x184d_2204;
/// Of the flags: what follows the header, a block, and the last block.
const BLOCK_CHECKSUMS: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const DICTIONARY: u8 = 1;
/// Of a block's length: it is not compressed.
const STORED: u32 = 1 << 31;

/// Fills `page` with what the frame holds, which must be exactly that; `packed` is room for a block. Nothing behind the frame
/// is read.
pub(super) fn read(content: &mut impl Read, page: &mut [u8], packed: &mut [u8]) -> io::Result<()> {
    if u32::from_le_bytes(bytes(content)?) != MAGIC {
        return Err(invalid("no LZ4 frame begins where a page should"));
    }
    let [flags, _block_size] = bytes(content)?;
    if flags >> 6 != 1 || flags & DICTIONARY != 0 {
        return Err(invalid("an LZ4 frame of a kind that this program does not know"));
    }
    if flags & CONTENT_SIZE != 0 {
        bytes::<8>(content)?;
    }
    // The header's checksum.
    bytes::<1>(content)?;
    let mut filled = 0;
    loop {
        let block = u32::from_le_bytes(bytes(content)?);
        if block == 0 {
            break;
        }
        let (before, rest) = page.split_at_mut(filled);
        let len = (block & !STORED) as usize;
        filled += if block & STORED != 0 {
            let rest = rest.get_mut(..len).ok_or_else(too_long)?;
            content.read_exact(rest)?;
            len
        } else {
            let packed = packed.get_mut(..len).ok_or_else(too_long)?;
            content.read_exact(packed)?;
            // What earlier blocks hold may be referred to.
            let unpacked = lz4_flex::block::decompress_into_with_dict(packed, rest, before);
            unpacked.map_err(|e| invalid(&e.to_string()))?
        };
        if flags & BLOCK_CHECKSUMS != 0 {
            bytes::<4>(content)?;
        }
    }
    if flags & CONTENT_CHECKSUM != 0 {
        bytes::<4>(content)?;
    }
    if filled == page.len() { Ok(()) } else { Err(invalid("an LZ4 frame shorter than a page")) }
}

fn bytes<const N: usize>(content: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    content.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn too_long() -> io::Error {
    invalid("an LZ4 frame longer than a page")
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn frame(page: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        // Two writes and a flush make two blocks.
        let (first, second) = page.split_at(page.len() / 3);
        encoder.write_all(first).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(second).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn frames_of_all_kinds_are_read_to_their_last_byte() {
        let mut noise = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .take(65_536)
        .collect();
        for page in [vec![7; 4096], noise, b"again and ".repeat(512)[..4096].to_vec()] {
            for mode in [BlockMode::Independent, BlockMode::Linked] {
                for checksums in [false, true] {
                    let info = FrameInfo::new().block_mode(mode).block_size(BlockSize::Max64KB);
                    let info = info.content_checksum(checksums).block_checksums(checksums);
                    let frame = frame(&page, info);
                    let mut found = vec![0; page.len()];
                    let content = [&frame[..], b"more"].concat();
                    let mut rest = &content[..];
                    let mut packed = vec![0; page.len() + 300];
                    read(&mut rest, &mut found, &mut packed).unwrap();
                    assert!(found == page && rest == b"more", "{mode:?} {checksums}");
                    // One byte more or less is none.
                    for len in [page.len() - 1, page.len() + 1] {
                        read(&mut &content[..], &mut vec![0; len], &mut packed).unwrap_err();
                    }
                    for len in 0..frame.len().min(200) {
                        read(&mut &frame[..len], &mut found, &mut packed).unwrap_err();
                    }
                }
            }
        }
    }
    #[test]
    fn frames_of_another_kind_are_refused() {
        let page = vec![7; 512];
        let whole = frame(&page, FrameInfo::new());
        let mut found = vec![0; 512];
        read(&mut &whole[..], &mut found, &mut [0; 600]).unwrap();
        // Another magic number, version, and a dictionary.
        for (at, bits) in [(0, 1), (4, 0x80), (4, 1)] {
            let mut other = whole.clone();
            other[at] ^= bits;
            read(&mut &other[..], &mut found, &mut [0; 600]).unwrap_err();
        }
    }
}
