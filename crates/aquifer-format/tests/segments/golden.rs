//! Files that were written once: what this crate writes and reads today is what it wrote then, and what
//! `docs/format.md` says.
//!
//! `AQUIFER_REGENERATE_GOLDEN=1 cargo test -p aquifer-format golden` writes them anew: only after a change of the
//! format on purpose, which changes its version too.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use aquifer_format::segment::{CompressionLevel, EntryKind, SegmentBytes, SegmentEncoder, merge};
use aquifer_format::{PageHash, PageSize, Pgno};

use crate::history::{Image, SIZE, finish, meta, restore_onto};

const FORMAT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md");

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn regenerating() -> bool {
    std::env::var_os("AQUIFER_REGENERATE_GOLDEN").is_some()
}

/// A file's bytes; when regenerating, what they should be.
fn read_or_write(name: &str, bytes: &[u8]) -> Vec<u8> {
    if regenerating() {
        std::fs::write(golden(name), bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    read(name)
}

fn text(seed: usize) -> Vec<u8> {
    format!("page {seed} of a golden file. ").into_bytes().into_iter().cycle().take(SIZE.bytes()).collect()
}

fn noise(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..SIZE.bytes()).map(step).collect()
}

/// The database after txids 0 to 5.
fn images() -> [Image; 6] {
    let zeros = SIZE.zero_page().to_vec();
    let first: Image = (1..=5).map(text).collect();

    let mut second = first.clone();
    second[0][24..28].copy_from_slice(&[0, 0, 0, 2]);
    second[0][92..96].copy_from_slice(&[0, 0, 0, 2]);
    second[1][500..512].fill(b'!');
    second[2] = noise(3);
    second.extend([zeros.clone(), text(7), noise(8)]);

    let mut third = second[..3].to_vec();
    third[1][..100].fill(0);

    let mut fourth = third.clone();
    fourth[0][24] ^= 0xff;
    fourth[2].clone_from(&zeros);
    fourth.extend([noise(4), zeros, text(6)]);

    let mut fifth = fourth.clone();
    fifth[5][10..20].fill(b'*');
    fifth.extend((7..=140).map(text));
    [Image::new(), first, second, third, fourth, fifth]
}

/// The segments of txids 1 to 5: raw except for the last, which has two groups.
fn encoders() -> [SegmentEncoder; 5] {
    let images = images();
    std::array::from_fn(|n| {
        let (before, after) = (&images[n], &images[n + 1]);
        let level = if n == 4 { CompressionLevel::KEEP } else { CompressionLevel::NONE };
        let mut encoder = SegmentEncoder::new(SIZE, level);
        for (i, new) in after.iter().enumerate() {
            let pgno = Pgno::from_index(i as u32);
            match before.get(i) {
                Some(old) => encoder.push_delta(pgno, old, new, PageHash::of(pgno, new)),
                None => encoder.push_image(pgno, new, PageHash::of(pgno, new)),
            }
        }
        encoder
    })
}

/// Names and bytes of the chain's objects, as encoded today.
fn objects() -> Vec<(&'static str, Vec<u8>)> {
    let images = images();
    let [first, second, third, fourth, fifth] = encoders();
    let meta = |n: usize| meta(n as u64, &images[n - 1], &images[n]);
    let external = fourth.finish_external(&meta(4)).expect("complete");
    vec![
        ("1-snapshot.seg", finish(first, &meta(1))),
        ("2-changed.seg", finish(second, &meta(2))),
        ("3-truncated.seg", finish(third, &meta(3))),
        ("4-external.seg", external.segment),
        ("4-external.groups", external.companion_tail),
        ("5-zstd.seg", finish(fifth, &meta(5))),
    ]
}

#[test]
fn golden_files_are_what_is_written_today() {
    for (name, encoded) in objects() {
        let stored = read_or_write(name, &encoded);
        // zstd may find shorter forms in another release: then only what it decompresses to is the same.
        if name != "5-zstd.seg" {
            assert_eq!(stored, encoded, "{name}");
        }
    }
}

#[test]
fn golden_files_restore_the_database_of_each_txid() {
    // The first test writes them.
    if regenerating() {
        return;
    }
    let [first, second, third, published, companion, fifth] = [
        "1-snapshot.seg",
        "2-changed.seg",
        "3-truncated.seg",
        "4-external.seg",
        "4-external.groups",
        "5-zstd.seg",
    ]
    .map(read);
    let parse = |object| SegmentBytes::parse(object).expect("valid");
    let fourth = SegmentBytes::parse_external(&published, &companion).expect("valid");
    let chain = [parse(&first), parse(&second), parse(&third), fourth, parse(&fifth)];
    let images = images();
    let mut pages = Image::new();
    for (n, segment) in chain.iter().enumerate() {
        assert_eq!(segment.info().meta(), &meta(n as u64 + 1, &images[n], &images[n + 1]));
        restore_onto(&mut pages, segment);
        assert_eq!(pages, images[n + 1], "after txid {}", n + 1);
    }
    assert!(chain[0].info().is_snapshot());
    assert_eq!(chain[4].info().groups().len(), 2);

    let merged = merge(&chain, CompressionLevel::KEEP).expect("adjacent").tail;
    let mut at_once = Image::new();
    restore_onto(&mut at_once, &parse(&merged));
    assert_eq!(at_once, images[5]);
}

/// The example of the specification: four bytes of page 2 changed.
fn wave() -> Vec<u8> {
    let before: Image = vec![text(1), SIZE.zero_page().to_vec(), text(3)];
    let mut after = before.clone();
    after[1][100..104].copy_from_slice(b"wave");
    let mut encoder = SegmentEncoder::new(SIZE, CompressionLevel::SHIP);
    let pgno = Pgno::ONE.next();
    encoder.push_delta(pgno, &before[1], &after[1], PageHash::of(pgno, &after[1]));
    finish(encoder, &meta(2, &before, &after))
}

fn specification() -> String {
    std::fs::read_to_string(FORMAT).expect("docs/format.md")
}

/// The fenced block of a language.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("```{language}\n")).expect("the block is there");
    rest.split_once("```").expect("it ends").0
}

#[test]
fn the_specification_shows_a_real_segment() {
    let object = wave();
    let entry_kind = |object: &[u8]| {
        let segment = SegmentBytes::parse(object).expect("valid");
        segment.entries().next().expect("valid").map(|entry| entry.kind)
    };
    assert_eq!(entry_kind(&object), Some(EntryKind::Delta));
    let specification = specification();
    let mut shown = Vec::new();
    for line in block(&specification, "hexdump").lines() {
        let mut words = line.split('|').next().unwrap_or_default().split_whitespace();
        assert_eq!(words.next().map(str::parse), Some(Ok(shown.len())), "offset of: {line}");
        shown.extend(words.map(|hex| u8::from_str_radix(hex, 16).expect("hexadecimal")));
    }
    let mut dump = String::new();
    for (i, chunk) in object.chunks(8).enumerate() {
        write!(dump, "\n{:3} ", i * 8).expect("a string");
        for byte in chunk {
            write!(dump, " {byte:02x}").expect("a string");
        }
    }
    assert_eq!(shown, object, "the segment is now {dump}");
}

#[test]
fn the_specification_shows_real_page_hashes() {
    let counting: Vec<u8> = (0..4096).map(|i| (i % 251) as u8).collect();
    let specification = specification();
    for (n, description, page) in [
        (1, "512 zeros", PageSize::MIN.zero_page()),
        (1, "4096 zeros", PageSize::DEFAULT.zero_page()),
        (2, "4096 zeros", PageSize::DEFAULT.zero_page()),
        (3, "4096 bytes, byte i is i mod 251", &counting),
    ] {
        let row =
            format!("| {n} | {description} | `{}` |", PageHash::of(Pgno::new(n).expect("1-based"), page));
        assert!(specification.contains(&row), "{row}");
    }
}

#[test]
fn the_specifications_reader_restores_the_golden_files() {
    if regenerating() {
        return;
    }
    let python = match Command::new("python3").arg("--version").output() {
        Ok(_) => "python3",
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // Everything else in this repository builds and runs without it.
            eprintln!("python3 is not installed: the reader in docs/format.md was not run");
            return;
        }
        Err(e) => panic!("python3: {e}"),
    };
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (reader, output) = (directory.join("format-reader.py"), directory.join("format-reader.db"));
    std::fs::write(&reader, block(&specification(), "python")).expect("a scratch file");
    let run = |names: &[&str]| {
        let mut command = Command::new(python);
        command.arg(&reader).arg(&output).args(names.iter().map(|name| golden(name)));
        command.output().expect("python3 starts")
    };
    // Without the last, which needs a module for zstd.
    let chain = ["1-snapshot.seg", "2-changed.seg", "3-truncated.seg", "4-external.seg"];
    for n in 1..=chain.len() {
        let done = run(&chain[..n]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let restored = std::fs::read(&output).expect("it wrote the database");
        assert_eq!(restored, images()[n].concat(), "after txid {n}");
    }
    let refused = run(&["2-changed.seg"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not adjacent"));
}
