//! Words, sentences and dates that compress and compare as those of real databases do.

use std::sync::LazyLock;

use super::rng::Rng;

/// When the generated businesses began: 2025-01-01T00:00:00Z, in seconds.
pub(super) const EPOCH: u64 = 1_735_689_600;

/// English words, the frequent ones first.
const COMMON: &str = include_str!("common_words.txt");
/// With invented ones up to this many: the long tail of names and terms.
const VOCABULARY: usize = 8000;
/// Names are drawn from behind the most frequent words.
const FIRST_RARE: u64 = 200;

static WORDS: LazyLock<Vec<String>> = LazyLock::new(vocabulary);

/// A random source that also speaks: what every generator draws from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) rng: Rng,
}

impl Source {
    pub(super) fn new(seed: u64) -> Source {
        Source { rng: Rng::new(seed) }
    }

    /// A word, frequent ones most often.
    pub(super) fn word(&mut self) -> &'static str {
        &WORDS[self.rng.zipf(VOCABULARY as u64) as usize]
    }

    /// A capitalised rare word: a name.
    pub(super) fn name(&mut self) -> String {
        let index = FIRST_RARE + self.rng.below(VOCABULARY as u64 - FIRST_RARE);
        capitalised(&WORDS[index as usize])
    }

    /// Sentences of at least `min..=max` bytes, ended at the next word.
    pub(super) fn text(&mut self, min: u64, max: u64) -> String {
        let len = self.rng.range(min, max) as usize;
        let mut text = String::with_capacity(len + 16);
        let mut begins_sentence = true;
        while text.len() < len {
            if !text.is_empty() {
                text.push(' ');
            }
            let word = self.word();
            if begins_sentence {
                text.push_str(&capitalised(word));
            } else {
                text.push_str(word);
            }
            begins_sentence = self.rng.one_in(12);
            if begins_sentence {
                text.push('.');
            }
        }
        text
    }

    /// `text(min, max)` once in `n`, else nothing: a column that is mostly empty.
    pub(super) fn sparse_text(&mut self, n: u64, min: u64, max: u64) -> String {
        if self.rng.one_in(n) { self.text(min, max) } else { String::new() }
    }
}

/// RFC 3339 in UTC of a moment in seconds since the Unix epoch.
pub(super) fn date(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds as i64)
        .expect("generated dates are near the epoch above")
        .to_string()
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// The same for every seed, so that databases of different seeds compare.
fn vocabulary() -> Vec<String> {
    const ONSETS: &[&str] = &[
        "b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "br", "ch", "cl", "dr", "fl",
        "gr", "pl", "pr", "sh", "st", "th", "tr", "w",
    ];
    const NUCLEI: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "ou"];
    const CODAS: &[&str] = &[
        "", "n", "r", "s", "t", "l", "nd", "nt", "st", "ck", "ng", "m", "ly", "tion", "ment", "er", "ed",
        "ing",
    ];
    let mut rng = Rng::new(4242);
    let mut words: Vec<String> = COMMON.split_whitespace().map(str::to_owned).collect();
    while words.len() < VOCABULARY {
        let last = 1 + rng.below(3);
        let mut word = String::new();
        for syllable in 0..=last {
            word.push_str(rng.pick(ONSETS));
            word.push_str(rng.pick(NUCLEI));
            if syllable == last || rng.one_in(3) {
                word.push_str(rng.pick(CODAS));
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_the_asked_length() {
        let mut source = Source::new(5);
        for _ in 0..200 {
            let text = source.text(60, 140);
            assert!((60..=160).contains(&text.len()), "{} bytes: {text}", text.len());
        }
    }

    #[test]
    fn common_words_are_listed_once() {
        let words: Vec<&str> = COMMON.split_whitespace().collect();
        let distinct: std::collections::HashSet<&str> = words.iter().copied().collect();
        assert_eq!(words.len(), distinct.len());
        assert!(words.len() as u64 > FIRST_RARE);
    }

    #[test]
    fn dates_are_rfc_3339() {
        assert_eq!(date(EPOCH), "2025-01-01T00:00:00Z");
    }
}
