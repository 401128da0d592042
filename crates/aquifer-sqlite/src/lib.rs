//! All that Aquifer knows of SQLite's files: pins, WAL, raw pages. All unsafe code lives here
