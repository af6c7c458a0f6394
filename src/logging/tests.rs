use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;

use super::*;
use crate::reason::Reason;
use crate::settings::Source;

fn logged(settings: &Settings, log: impl FnOnce()) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.log");
    let output = Output::open(Target::File(path.clone())).unwrap();
    let subscriber = subscriber(settings, Component::ConnectionPoint, output);
    tracing::subscriber::with_default(subscriber, log);
    fs::read_to_string(path).unwrap()
}

fn with(format: Format) -> Settings {
    Settings {
        format,
        ..Settings::default()
    }
}

fn speak() {
    tracing::info_span!("request", request_id = "6f1e").in_scope(|| {
        tracing::info!(gateway = "gw-0", "the tunnel is up");
        tracing::debug!("not at this level");
    });
    tracing::info!(target: "h2::frame", "not of this crate");
}

#[test]
fn each_format_holds_message_fields_and_the_request_of_the_span() {
    for format in [Format::Text, Format::Json, Format::CmTrace] {
        let text = logged(&with(format), speak);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in ["the tunnel is up", "gw-0", "6f1e"] {
            assert!(text.contains(part), "{format:?}: {part}: {text}");
        }
    }
}

#[test]
fn cmtrace_lines_name_the_component_of_the_role() {
    let text = logged(&with(Format::CmTrace), speak);
    assert!(
        text.starts_with("<![LOG[the tunnel is up gateway=gw-0"),
        "{text}"
    );
    assert!(
        text.contains("component=\"SMS_Cloud_ProxyConnector\""),
        "{text}"
    );
}

#[test]
fn json_lines_are_objects_with_the_fields_at_the_top() {
    let text = logged(&with(Format::Json), speak);
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["message"], "the tunnel is up");
    assert_eq!(read["gateway"], "gw-0");
    assert_eq!(read["level"], "INFO");
}

#[test]
fn the_level_is_a_setting() {
    let settings = Settings {
        level: LevelFilter::DEBUG,
        ..Settings::default()
    };
    assert_eq!(logged(&settings, speak).lines().count(), 2);
    let settings = Settings {
        level: LevelFilter::ERROR,
        ..Settings::default()
    };
    assert_eq!(logged(&settings, speak), "");
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_when_it_is_reopened() {
    let folder = tempfile::tempdir().unwrap();
    let [path, moved] = ["a.log", "a.log.1"].map(|name| folder.path().join(name));
    let output = Output::open(Target::File(path.clone())).unwrap();
    io::Write::write_all(&mut &output, b"old\n").unwrap();
    fs::rename(&path, &moved).unwrap();
    output.reopen().unwrap();
    io::Write::write_all(&mut &output, b"new\n").unwrap();
    assert_eq!(fs::read_to_string(moved).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(path).unwrap(), "new\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let missing = Target::File("/nonexistent/folder/a.log".into());
    let error = Output::open(missing).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/folder/a.log: "), "{error}");
}

#[test]
fn settings_are_read_and_each_fault_names_its_key() {
    let text = "format = \"cmtrace\"\nlevel = \"loud\"\nfile = \"logs\"\n\
                [access]\nfile = \"-\"\nformat = \"json\"\nsample = 0\n";
    let source = Source::parse("f", Path::new("/etc/opencmg"), text).unwrap();
    let settings = Settings::read(&source.root());
    assert_eq!(settings.format, Format::CmTrace);
    assert_eq!(
        settings.file.as_deref(),
        Some(Path::new("/etc/opencmg/logs"))
    );
    assert_eq!(settings.access.target, Some(Target::StandardOutput));
    assert_eq!(settings.access.format, AccessFormat::Json);
    let problems: Vec<_> = source.finish().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("f: access.sample: is 0"),
        "{problems:?}"
    );
    assert!(
        problems[1].starts_with("f: level: is \"loud\""),
        "{problems:?}"
    );
}

fn entry(path: &str, reason: Option<Reason>) -> Entry<'_> {
    Entry {
        time: OffsetDateTime::UNIX_EPOCH,
        request_id: "1",
        remote: Ipv4Addr::LOCALHOST.into(),
        client: None,
        endpoint: None,
        method: "GET",
        path,
        status: Some(200),
        reason,
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        connection_point: None,
    }
}

fn access(settings: &AccessSettings, record: impl FnOnce(&AccessLog)) -> (String, AccessCounts) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let counts = AccessCounts::default();
    let log = AccessLog::start(&settings.clone().to_file(path.clone()), counts.clone()).unwrap();
    record(&log);
    drop(log);
    (fs::read_to_string(path).unwrap(), counts)
}

#[test]
fn the_access_log_holds_one_line_per_request_in_order_once_it_is_dropped() {
    let (text, counts) = access(&AccessSettings::default(), |log| {
        for number in 0..1000 {
            log.record(&entry(&format!("/{number}"), None));
        }
    });
    assert_eq!(counts.dropped.get(), 0);
    assert_eq!(counts.lines.get(), 1000);
    for (number, line) in text.lines().enumerate() {
        assert!(line.contains(&format!("path=\"/{number}\"")), "{line}");
    }
    assert_eq!(text.lines().count(), 1000);
}

#[test]
fn sampling_keeps_one_of_so_many_and_everything_with_a_reason() {
    let settings = AccessSettings {
        sample: 10,
        ..AccessSettings::default()
    };
    let (text, _) = access(&settings, |log| {
        for number in 0..100 {
            let reason = (number % 50 == 1).then_some(Reason::NoTunnel);
            log.record(&entry("/", reason));
        }
    });
    assert_eq!(text.lines().count(), 10 + 2);
    assert_eq!(text.matches("reason=no-tunnel").count(), 2);
}

#[cfg(unix)]
#[test]
fn the_access_log_never_waits_and_counts_what_it_drops() {
    // A pipe without a reader stands for a disk that hangs.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let (send, opened) = std::sync::mpsc::channel();
    let reading = pipe.clone();
    let reader = std::thread::spawn(move || {
        let mut file = fs::File::open(reading).unwrap();
        opened.recv().unwrap();
        io::copy(&mut file, &mut io::sink()).unwrap()
    });
    let settings = AccessSettings {
        queue: 16,
        ..AccessSettings::default()
    };
    let counts = AccessCounts::default();
    let log = AccessLog::start(&settings.to_file(pipe), counts.clone()).unwrap();
    let path = format!("/{}", "x".repeat(4000));
    for _ in 0..1000 {
        log.record(&entry(&path, None));
    }
    assert!(counts.dropped.get() > 900, "{}", counts.dropped.get());
    send.send(()).unwrap();
    drop(log);
    reader.join().unwrap();
    assert_eq!(counts.dropped.get() + counts.lines.get(), 1000);
}

#[test]
fn the_access_log_follows_a_rotation_and_loses_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let [path, moved] = ["access.log", "access.log.1"].map(|name| folder.path().join(name));
    let settings = AccessSettings::default().to_file(path.clone());
    let log = AccessLog::start(&settings, AccessCounts::default()).unwrap();
    log.record(&entry("/before", None));
    fs::rename(&path, &moved).unwrap();
    log.reopen();
    log.record(&entry("/after", None));
    drop(log);
    let texts = [moved, path].map(|file| fs::read_to_string(file).unwrap_or_default());
    assert_eq!(texts.concat().lines().count(), 2, "{texts:?}");
    assert!(texts[1].contains("/after"), "{texts:?}");
}

#[test]
fn an_access_log_that_is_off_takes_entries_and_writes_nothing() {
    let log = AccessLog::start(&AccessSettings::default(), AccessCounts::default()).unwrap();
    assert!(!log.is_on());
    log.record(&entry("/", None));
    log.reopen();
}
