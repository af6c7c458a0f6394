use super::*;
use crate::settings::samples;

#[test]
fn the_samples_show_every_key_with_its_default() {
    let config = |name| samples::sample(name).0.parent().unwrap().to_owned();
    let name = "gateway.toml";
    let gateway = samples::assert_complete(name, &config(name), &[], |root| {
        format!("{:?}", gateway::read(root, Path::new("/etc")))
    });
    let name = "connection-point.toml";
    let faults = [];
    let connection_point = samples::assert_complete(name, &config(name), &faults, |root| {
        format!("{:?}", connection_point::read(root))
    });
    assert_eq!((gateway, connection_point), (51, 52));
}

#[test]
fn a_role_is_told_by_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    let role = |text: &str| {
        std::fs::write(&path, text).unwrap();
        role_of(&path).map_err(|problem| problem.what)
    };
    assert_eq!(role("[gateway]\n"), Ok(Role::Gateway));
    // The connection point has a list of gateways.
    let text = "[connection-point]\n[[gateway]]\n";
    assert_eq!(role(text), Ok(Role::ConnectionPoint));
    let what = role("[log]\n").unwrap_err();
    assert!(what.starts_with("configures neither role"), "{what}");
    for text in [
        "[[connection-point]]\nname = \"cp-1\"\n",
        "[trust]\n[connection-points]\n[[role]]\n",
    ] {
        let what = role(text).unwrap_err();
        assert!(what.starts_with("is a service definition"), "{what}");
    }
    let what = role("[").unwrap_err();
    assert!(what.starts_with("is not TOML"), "{what}");
}

#[test]
fn one_address_cannot_be_listened_on_twice() {
    let text = "[gateway]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\ntunnel-listen = [\"127.0.0.1:1\"]\n\
                health = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:0\"\n";
    let outcome = samples::read(text, Path::new("/etc"), |root| {
        format!("{:?}", gateway::read(root, Path::new("/etc")))
    });
    assert_eq!(
        outcome.problems,
        [
            "sample: gateway.health: 127.0.0.1:2 is the address of listen[1] already",
            "sample: gateway.tunnel-listen[0]: 127.0.0.1:1 is the address of listen[0] already",
        ]
    );
}
