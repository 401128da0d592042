//! The table that is printed.

/// Rows of figures.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    /// A figure that has a limit.
    pub(super) fn limited(&mut self, bench: &str, what: &str, value: f64, unit: &str, limit: Limit) {
        let met = if limit.is_met(value) { "yes" } else { "NO" };
        self.push(bench, what, format!("{}{unit}", number(value)), format!("{limit}{unit}"), met);
    }

    /// A figure that stands beside another.
    pub(super) fn plain(&mut self, bench: &str, what: &str, value: f64, unit: &str) {
        self.push(bench, what, format!("{}{unit}", number(value)), String::new(), "");
    }

    fn push(&mut self, bench: &str, what: &str, value: String, limit: String, met: &str) {
        eprintln!("  {what}: {value} {limit} {met}");
        self.rows.push([bench.to_owned(), what.to_owned(), value, limit, met.to_owned()]);
    }

    /// Prints it, as Markdown.
    pub(super) fn print(&self) {
        println!("| bench | figure | measured | limit | met |\n|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// What a figure should be.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn is_met(self, value: f64) -> bool {
        match self {
            Limit::AtMost(limit) => value <= limit,
            Limit::AtLeast(limit) => value >= limit,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::AtMost(limit) => write!(f, "at most {}", number(*limit)),
            Limit::AtLeast(limit) => write!(f, "at least {}", number(*limit)),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
