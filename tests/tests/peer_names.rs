//! Peers whose endpoints are host names.

use std::fs;

use e2e::{Identity, Node, Server, eventually, free_port, http, http_get, mounts, need, products, within};
use std::time::Duration;

#[test]
fn a_peer_whose_name_is_not_found_at_the_start_comes_later_and_leaves_the_others_alone() {
    let products = need!(products());
    need!(mounts());
    let place = tempfile::tempdir().expect("a temporary directory");
    let [hosts, resolv] = ["hosts", "resolv.conf"].map(|name| place.path().join(name));
    fs::write(&hosts, "127.0.0.1 localhost\n").expect("written");
    // Nobody is there.
    fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").expect("written");

    let server = Server::local(http("found"));
    let [own, known, late] = Identity::several();
    let ingress = |identity: &Identity| {
        let mut node = Node::with(&products, identity)
            .peer(&own)
            .ingress(format!("tcp:81:{}", server.address()))
            .build();
        node.launch();
        node
    };
    let mut others = [&known, &late].map(ingress);
    let [to_known, to_late] = [free_port(), free_port()];
    let by_name = late.peer_section().replace("127.0.0.1", "late.test");
    let node = Node::with(&products, &own)
        .peer(&known)
        .peer_section(by_name)
        .egress(format!("tcp:{to_known}:{}:81", known.v4))
        .egress(format!("tcp:{to_late}:{}:81", late.v4))
        .mount(&hosts, "/etc/hosts")
        .mount(&resolv, "/etc/resolv.conf")
        .expect_complaint("cannot be resolved")
        .start();
    others.iter_mut().for_each(Node::wait_ready);
    assert_eq!(http_get(to_known).expect("a page"), "found");
    let line = format!(
        "endpoint late.test:{} of peer {} cannot be resolved; it is tried again",
        late.endpoint.port(),
        late.public_key
    );
    let status = node.nexctl_ok(&["status"]);
    assert!(status.contains("Status: Running") && status.contains(&line), "{status}");

    fs::write(&hosts, "127.0.0.1 localhost late.test\n").expect("written");
    let page = within(Duration::from_secs(40), "the peer that was not found", || http_get(to_late).ok());
    assert_eq!(page, "found");
    eventually("no word about it", || !node.nexctl_ok(&["status"]).contains("late.test"));
}
