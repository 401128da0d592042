//! Rows of both crates, to be compared.

use libsql::Value;

pub(crate) type Row = Vec<Value>;

/// A row of values of all types.
macro_rules! row {
    ($($value:expr),*) => { vec![$(libsql::Value::from($value)),*] };
}
pub(crate) use row;

/// The rows of a query of `libsql`.
pub(crate) async fn query(
    connection: &libsql::Connection,
    sql: &str,
    arguments: impl libsql::params::IntoParams,
) -> libsql::Result<Vec<Row>> {
    let mut rows = connection.query(sql, arguments).await?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().await? {
        all.push((0..rows.column_count()).map(|i| row.get_value(i)).collect::<libsql::Result<_>>()?);
    }
    Ok(all)
}

/// The rows of a query of `turso`.
pub(crate) async fn query_turso(connection: &turso::Connection, sql: &str) -> turso::Result<Vec<Row>> {
    let mut rows = connection.query(sql, ()).await?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().await? {
        let values = (0..row.column_count()).map(|i| {
            Ok(match row.get_value(i)? {
                turso::Value::Null => Value::Null,
                turso::Value::Integer(value) => Value::Integer(value),
                turso::Value::Real(value) => Value::Real(value),
                turso::Value::Text(value) => Value::Text(value),
                turso::Value::Blob(value) => Value::Blob(value),
            })
        });
        all.push(values.collect::<turso::Result<_>>()?);
    }
    Ok(all)
}

pub(crate) const MANY: i64 = 100_000;

/// Checks that these are the rows 1 to [`MANY`].
#[track_caller]
pub(crate) fn are_many(rows: &[Row]) {
    assert_eq!(rows.len() as i64, MANY);
    for (row, n) in rows.iter().zip(1..) {
        assert_eq!(*row, row![n, format!("row {n}")]);
    }
}

/// The first column of all rows.
pub(crate) fn ids(rows: Vec<Row>) -> Vec<Value> {
    rows.into_iter().map(|row| row.into_iter().next().unwrap_or(Value::Null)).collect()
}
