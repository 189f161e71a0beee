//! `nexctl`; see [`xds_server::nexctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xds_server::nexctl::main(std::env::args_os())
}
