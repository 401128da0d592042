//! The foreign application of Aquifer's tests: see `aquifer_testkit::app`.

use std::path::Path;
use std::process::ExitCode;

use aquifer_testkit::app::serve;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, options] = &arguments[..] else {
        eprintln!("usage: testkit-app DATABASE OPTIONS_AS_JSON");
        return ExitCode::from(2);
    };
    let done = serde_json::from_str(options)
        .map_err(Into::into)
        .and_then(|options| serve(Path::new(path), &options));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error {error}");
            ExitCode::FAILURE
        }
    }
}
