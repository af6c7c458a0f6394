use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, RevocationList, Validity};

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn expiring(r#use: Use, name: &str, ends: u64) -> Expiring {
    Expiring {
        r#use,
        name: name.to_owned(),
        ends: at(ends),
    }
}

const END: u64 = 1000 * DAY;

#[test]
fn each_threshold_is_reached_to_the_second_and_the_end_belongs_to_the_certificate() {
    let server = expiring(Use::Server, "a", END);
    for (now, reached, days) in [
        (END - 30 * DAY - 1, None, 30),
        (END - 30 * DAY, Some(30), 30),
        (END - 14 * DAY - 1, Some(30), 14),
        (END - 14 * DAY, Some(14), 14),
        (END - 7 * DAY, Some(7), 7),
        (END - DAY - 1, Some(7), 1),
        (END - DAY, Some(1), 1),
        (END, Some(1), 0),
        (END + 1, Some(0), -1),
        (END + DAY, Some(0), -2),
    ] {
        assert_eq!(server.reached(at(now)), reached, "{now}");
        assert_eq!(server.days_left(at(now)), days, "{now}");
    }
    let crl = expiring(Use::Crl, "a", END);
    assert_eq!(crl.reached(at(END)), None);
    assert_eq!(crl.reached(at(END + 1)), Some(0));
}

#[test]
fn an_alert_stands_from_its_threshold_until_the_renewal_and_the_metrics_say_so() {
    let metrics = Metrics::new();
    let alerts = Expiry::new(metrics.clone());
    let old = [
        expiring(Use::Server, "gw", END),
        expiring(Use::TrustAnchor, "root", END + 900 * DAY),
    ];
    let shown = |name: &str| {
        let text = metrics.encode();
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && line.contains("\"gw\""));
        line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
    };
    alerts.look(&old, at(END - 31 * DAY));
    assert_eq!(alerts.view(), json!([]));
    assert_eq!(shown("opencmg_expiry_alert_days"), None);
    assert_eq!(
        shown("opencmg_certificate_expiry_seconds"),
        Some(END.to_string())
    );

    alerts.look(&old, at(END - 20 * DAY));
    alerts.look(&old, at(END - 6 * DAY));
    assert_eq!(shown("opencmg_expiry_alert_days").as_deref(), Some("7"));
    let view = alerts.view();
    assert_eq!(view.as_array().unwrap().len(), 1);
    assert_eq!(view[0]["use"], "server");
    assert_eq!(view[0]["since"], END - 20 * DAY);
    assert_eq!(view[0]["threshold_days"], 7);
    alerts.look(&old, at(END + 5));
    assert_eq!(shown("opencmg_expiry_alert_days").as_deref(), Some("0"));

    // The renewed one beside it does not mend what is configured still.
    let both = [expiring(Use::Server, "gw", END + 365 * DAY), old[0].clone()];
    alerts.look(&both, at(END + 10));
    assert_eq!(shown("opencmg_expiry_alert_days").as_deref(), Some("0"));
    alerts.look(&both[..1], at(END + 10));
    assert_eq!(alerts.view(), json!([]));
    assert_eq!(shown("opencmg_expiry_alert_days"), None);
}

#[test]
fn the_last_list_of_an_old_key_and_the_list_of_the_new_one_end_each_for_itself() {
    let [old, new] = [END, END + 9 * DAY].map(|end| {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let validity = Validity {
            not_before: at(0),
            not_after: at(end),
        };
        let ca = Authority::root("Root", key, validity).unwrap();
        let der = ca.revoke(&RevocationList::empty(1, validity)).unwrap();
        Crl::read(&der, &[ca.certificate().clone()]).unwrap()
    });
    let alerts = Expiry::new(Metrics::new());
    let names = |now| {
        alerts.look(&[Expiring::crl(&old), Expiring::crl(&new)], at(now));
        let view = alerts.view();
        let names = view.as_array().unwrap().iter();
        names
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let name = |crl: &Crl| format!("\"CN=Root\" (key {})", crl.issuer_key().short());
    assert_eq!(names(END), BTreeSet::new());
    assert_eq!(names(END + DAY), BTreeSet::from([name(&old)]));
    assert_eq!(
        names(END + 10 * DAY),
        BTreeSet::from([name(&old), name(&new)])
    );
}
