//! `nexd proxy`; see [`xds_server::nexd`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xds_server::nexd::main(std::env::args_os())
}
