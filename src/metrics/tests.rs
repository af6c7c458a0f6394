use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::reason::Reason;

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[test]
fn an_endpoint_counts_requests_failures_bytes_and_durations_under_its_labels() {
    let metrics = Metrics::new();
    let endpoint = metrics.endpoint(72_057_594_037_927_937_u64, "SMS_MP");
    endpoint.begin();
    endpoint.begin();
    endpoint.bytes_in.inc_by(5_000_000_000);
    endpoint.finish(Finished {
        status: Some(404),
        reason: Some(Reason::BackendAnswer),
        duration: Duration::from_millis(20),
    });
    let text = metrics.encode();
    let labels = "role=\"72057594037927937\",endpoint=\"SMS_MP\"";
    let of = |name: &str, more: &str| value(&text, &format!("opencmg_{name}{{{labels}{more}}}"));
    assert_eq!(of("requests_total", ",status=\"4xx\""), Some(1.0), "{text}");
    assert_eq!(of("requests_total", ",status=\"2xx\""), Some(0.0));
    let failures = of("request_failures_total", ",reason=\"backend-answer\"");
    assert_eq!(failures, Some(1.0));
    assert_eq!(of("received_bytes_total", ""), Some(5e9));
    assert_eq!(of("requests_in_flight", ""), Some(1.0));
    assert_eq!(of("request_duration_seconds_count", ""), Some(1.0));
}

#[test]
fn an_endpoint_asked_for_twice_has_the_same_counters() {
    let metrics = Metrics::new();
    metrics.endpoint(1, "BGB").bytes_out.inc_by(2);
    metrics.endpoint(1, "BGB").bytes_out.inc_by(3);
    assert_eq!(metrics.endpoint(1, "BGB").bytes_out.get(), 5);
    assert_eq!(metrics.unrouted().bytes_out.get(), 0);
}

#[test]
fn every_reason_and_status_class_has_its_own_counter() {
    let metrics = Metrics::new();
    let endpoint = metrics.unrouted();
    for reason in Reason::ALL {
        endpoint.failures(*reason).inc();
    }
    for class in StatusClass::ALL {
        endpoint.requests(class).inc();
    }
    assert!(Reason::ALL.iter().all(|r| endpoint.failures(*r).get() == 1));
    assert!(
        StatusClass::ALL
            .iter()
            .all(|c| endpoint.requests(*c).get() == 1)
    );
    let classes = [None, Some(100), Some(204), Some(304), Some(499), Some(503)];
    let classes = classes.map(|status| StatusClass::of(status).as_str());
    assert_eq!(classes, ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]);
}

#[test]
fn the_text_ends_as_openmetrics_asks_and_says_whether_crls_are_checked() {
    let text = Metrics::new().encode();
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, "opencmg_revocation_checked"), Some(0.0));
    assert!(text.contains("opencmg_build_info{version="), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("opencmg_"), "{line}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_figures_of_our_own_process_are_read_from_the_kernel() {
    let text = Metrics::new().encode();
    let resident = value(&text, "opencmg_process_resident_memory_bytes");
    assert!(resident.is_some_and(|bytes| bytes > 1e6), "{text}");
    let open = value(&text, "opencmg_process_open_fds");
    assert!(open.is_some_and(|fds| fds >= 3.0), "{text}");
}

#[test]
fn names_of_families_are_unique_and_have_a_help() {
    let all = || Families::LIST.iter().chain(PROCESS_LIST);
    let names: BTreeSet<_> = all().map(|(name, _)| name).collect();
    assert_eq!(names.len(), all().count());
    assert!(all().all(|(_, help)| help.ends_with('.')));
}
