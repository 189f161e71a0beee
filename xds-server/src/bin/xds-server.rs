//! The xDS server for people who run their own Envoy.

fn main() {}
