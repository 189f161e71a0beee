//! The xDS server on its own; see [`xds_server::standalone`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xds_server::standalone::main(std::env::args_os())
}
