//! The switchyard program.

use std::process::ExitCode;

use switchyard::{args::Arguments, commands};

/// glibc's allocator does not return the memory freed by building a large table, and takes twice as long.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match commands::run(Arguments::of_this_process()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("switchyard: {error:#}");
            ExitCode::FAILURE
        }
    }
}
