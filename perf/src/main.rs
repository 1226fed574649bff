//! `perf`: the benchmarks, from the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    match perf::command::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
