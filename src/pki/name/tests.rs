use super::*;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};

fn subject_of(common_name: &str) -> String {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let key = || Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let root = Authority::root("Root", key(), Validity::days(now, 1)).unwrap();
    let leaf = Leaf {
        common_name: common_name.to_owned(),
        ..Leaf::client("pc-1.test", Validity::days(now, 1))
    };
    root.issue(&leaf, &key()).unwrap().leaf().unwrap().subject
}

#[test]
fn no_value_can_pass_for_another_attribute_or_break_a_line() {
    assert_eq!(subject_of("pc-1"), "CN=pc-1");
    assert_eq!(subject_of("a,O=Contoso"), "CN=a\\,O=Contoso");
    assert_eq!(subject_of("a+b\"c\\d;<e>"), "CN=a\\+b\\\"c\\\\d\\;\\<e\\>");
    assert_eq!(subject_of(" #a "), "CN=\\ #a\\ ");
    assert_eq!(subject_of("#a"), "CN=\\#a");
    assert_eq!(subject_of("a\r\nb\u{85}"), "CN=a\\0d\\0ab\\c2\\85");
    assert_eq!(subject_of("Jörg"), "CN=Jörg");
}

#[test]
fn dates_are_written_in_utc_and_odd_ones_do_no_harm() {
    assert_eq!(
        print_time(unix_time(1_800_000_000)),
        "2027-01-15 08:00:00 UTC"
    );
    assert_eq!(print_time(unix_time(-5)), "1970-01-01 00:00:00 UTC");
    let far = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    assert!(print_time(far).ends_with("s after 1970"));
}
