//! The configuration files in envoy-config/, as a user takes them: edited in the places they name, and run.

use std::fs;

use e2e::{
    Envoy, Identity, Place, Products, Server, eventually, free_port, http, http_get, need, products, validate,
};

#[test]
fn every_file_is_valid() {
    let products = need!(products());
    let [one, two] = Identity::several();
    for name in ["egress-static.yaml", "ingress-static.yaml", "xds.yaml"] {
        let place = Place::new(&one, &two);
        validate(&products, &place.configuration(name, &[]))
            .unwrap_or_else(|output| panic!("{name}:\n{output}"));
        assert_eq!(
            fs::read_dir(place.path("run")).expect("a directory").count(),
            0,
            "validating {name} left a socket"
        );
    }
}

#[test]
fn validation_opens_no_port() {
    let products = need!(products());
    let [one, two] = Identity::several();
    // Taken: opening the WireGuard port would fail.
    let _port = std::net::UdpSocket::bind(one.endpoint).expect("a free port");
    let place = Place::new(&one, &two);
    validate(&products, &place.configuration("ingress-static.yaml", &[]))
        .unwrap_or_else(|output| panic!("{output}"));
}

#[test]
fn the_static_files_carry_a_request_without_any_xds_server() {
    let products = need!(products());
    let server = Server::local(http("static"));
    // The egress file's destination is 100.64.0.2.
    let [one, two] = Identity::several();
    let ingress_place = Place::new(&two, &one);
    let _ingress = start_ingress(&products, &ingress_place, server.port());
    let place = Place::new(&one, &two);
    let port = free_port();
    let listen = format!("address: 127.0.0.1, port_value: {port}");
    let edits =
        [("address: 127.0.0.1, port_value: 8080", listen.as_str()), ("100.64.0.2:8080", "100.64.0.2:443")];
    let egress = Envoy::start(&products, &place.configuration("egress-static.yaml", &edits), place.admin());
    for _ in 0..5 {
        assert_eq!(http_get(port).expect("a page"), "static");
    }
    eventually("the destination in the access log", || egress.log().contains("100.64.0.2:443"));
    let status = egress.admin().get("/nexodus/status").expect("the module's admin page");
    assert!(status.contains(&two.public_key) && !status.contains(&one.private_key), "{status}");
    let dump = egress.admin().get("/config_dump").expect("Envoy's admin page");
    assert!(!dump.contains(&one.private_key), "the private key is in the configuration dump");
}

fn start_ingress(products: &Products, place: &Place, server: u16) -> Envoy {
    let destination = format!("address: 127.0.0.1, port_value: {server}");
    let edits = [("address: 127.0.0.1, port_value: 8080", destination.as_str())];
    Envoy::start(products, &place.configuration("ingress-static.yaml", &edits), place.admin())
}
