//! The commands as an administrator meets them: the real binary, its output, its exit codes, its signals.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Validity};
use opencmg::pki::{Certificate, UnixTime, load_pem};

/// What no command on this machine may take longer than.
const DEADLINE: Duration = Duration::from_secs(60);

fn opencmg(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    let output = opencmg(arguments).current_dir(folder).output();
    output.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A command that runs, with its standard output line by line. Dropping it kills it.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = opencmg(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if line.is_err() || sender.send(line.unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that begins so.
    fn line(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("no line begins with {start:?}"));
            if line.starts_with(start) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end, which is when its standard output is closed.
    fn end(mut self) -> ExitStatus {
        while self.lines.recv_timeout(DEADLINE) != Err(mpsc::RecvTimeoutError::Disconnected) {}
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless an assertion failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a line as a shell does; returns the status line and the body.
fn paste(line: &str) -> (String, String) {
    let shell = Command::new("sh")
        .args([
            "-c",
            &format!("{line} --silent --show-error --http1.1 --include"),
        ])
        .output()
        .unwrap();
    let answer = text(&shell.stdout);
    let problem = text(&shell.stderr);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer}{problem}"));
    let status = head.lines().next().unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

#[test]
fn help_version_and_usage_errors_are_as_they_were() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}

#[test]
fn quickstart_serves_the_printed_curl_line_and_ends_with_an_interrupt() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a folder's name");
    let arguments = ["quickstart", "--port", "0", "--dir", dir.to_str().unwrap()];
    let quickstart = Running::start(&arguments);
    assert_eq!(quickstart.line("ready"), "ready");
    let curl = quickstart.line("curl ");
    let (status, body) = paste(&curl);
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!(body, opencmg::cli::builtin::MPLIST);

    let (before, after) = curl.split_once(" --cert ").unwrap();
    let (_, after) = after.split_once(" --resolve ").unwrap();
    let (status, body) = paste(&format!("{before} --resolve {after}"));
    assert_eq!(status, "HTTP/1.1 403 CMGService_ClientCertificateMissing");
    assert!(
        body.contains("\"reason\":\"certificate-missing\""),
        "{body}"
    );

    quickstart.signal("-INT");
    assert!(quickstart.end().success());
    let root = fs::read(dir.join("pki/root.pem")).unwrap();

    let again = Running::start(&arguments);
    again.line("ready");
    again.signal("-TERM");
    // The same signal to the process and to its group.
    again.signal("-TERM");
    assert!(again.end().success());
    assert_eq!(fs::read(dir.join("pki/root.pem")).unwrap(), root);
}

#[test]
fn quickstart_once_has_every_kind_of_request_answered_right() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    let arguments = [
        "quickstart",
        "--once",
        "--port",
        "0",
        "--dir",
        dir.to_str().unwrap(),
    ];
    let output = run(&arguments, temp.path());
    let table = text(&output.stdout);
    assert!(output.status.success(), "{table}{}", text(&output.stderr));
    assert!(table.ends_with("22 right, 0 wrong\n"), "{table}");
    for kind in [
        "MPLIST2",
        "SITESIGNCERT",
        ".sms_pol",
        "CCM_POST CCM_System/request, 32 MiB",
        "create session",
        "fragment",
        "close session",
        "HEAD",
        "PROPFIND",
        "one range",
        "three ranges",
        "ClientWebService, Expect",
        "SimpleAuthWebService, Expect",
        "BGB",
        "root of its own host",
        "ServiceMetadata",
        "without a certificate",
    ] {
        assert!(table.contains(kind), "{kind}\n{table}");
    }
}

#[test]
fn quickstart_says_which_request_was_wrong_and_exits_1() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    // Nothing listens on the port of discard.
    let dead = "http://127.0.0.1:9";
    let dir = dir.to_str().unwrap();
    let arguments = [
        "quickstart",
        "--once",
        "--port",
        "0",
        "--dir",
        dir,
        "--software-update-point",
        dead,
    ];
    let output = run(&arguments, temp.path());
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}");
    let head = table.lines().find(|line| line.starts_with("HEAD Content"));
    let head = head.unwrap();
    assert!(head.contains("502 CMGConnector_"), "{head}");
    assert!(head.ends_with("WRONG: 200 was expected"), "{head}");
    let mplist = table.lines().find(|line| line.contains("MPLIST2")).unwrap();
    assert!(!mplist.contains("WRONG"), "{mplist}");
}

#[test]
fn quickstart_leaves_a_folder_alone_that_is_not_its_own() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("thesis.tex"), "years of work").unwrap();
    let dir = temp.path().to_str().unwrap();
    // It would end by itself if it were not refused.
    let arguments = ["quickstart", "--once", "--port", "0", "--dir", dir];
    let output = run(&arguments, temp.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        format!(
            "opencmg: {dir} holds files that quickstart did not make; \
             name another folder with --dir, or empty it\n"
        )
    );
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

/// Every file below a folder with what it holds.
fn files_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_of(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn a_second_quickstart_on_a_live_folder_is_refused_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    let name = dir.to_str().unwrap();
    let arguments = ["quickstart", "--port", "0", "--dir", name];
    let first = Running::start(&arguments);
    let curl = first.line("curl ");
    let before = files_of(&dir);
    assert!(before.len() > 10, "{:?}", before.keys());
    // The one that would end by itself if it were not refused comes first.
    for more in [&["--once"][..], &[]] {
        let second = run(&[&arguments[..], more].concat(), temp.path());
        assert_eq!(second.status.code(), Some(1));
        assert_eq!(text(&second.stdout), "");
        assert_eq!(
            text(&second.stderr),
            format!(
                "opencmg: {name} is in use by another quickstart; end that one, or name another folder with --dir\n"
            )
        );
    }
    assert!(files_of(&dir) == before, "the first's files were changed");
    assert_eq!(paste(&curl).0, "HTTP/1.1 200 OK");

    // A lock that outlived a killed process would make the folder useless.
    first.signal("-KILL");
    assert!(!first.end().success());
    let third = Running::start(&arguments);
    third.line("ready");
    third.signal("-INT");
    assert!(third.end().success());
}

#[test]
fn a_connection_points_key_never_leaves_its_machine_and_its_request_is_signed() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path();
    let validity = Validity::days(UnixTime::now(), 30);
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let ca = Authority::root("Connection points", key, validity).unwrap();
    fs::write(folder.join("ca.pem"), ca.to_pem()).unwrap();
    fs::write(folder.join("ca.key"), ca.key_to_pem()).unwrap();

    let made = run(&["connection-point", "key", "CP-1.contoso.com"], folder);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let again = run(&["connection-point", "key", "cp-1.contoso.com"], folder);
    assert_eq!(again.status.code(), Some(1));
    let what = "opencmg: ./cp-1.contoso.com.key exists already and is not overwritten\n";
    assert_eq!(text(&again.stderr), what);

    let sign = [
        "connection-point-certificate",
        "--csr",
        "cp-1.contoso.com.csr",
    ];
    let sign: Vec<&str> = sign
        .into_iter()
        .chain(["--ca-cert", "ca.pem", "--ca-key", "ca.key", "--days", "7"])
        .collect();
    let signed = run(&sign, folder);
    assert!(signed.status.success(), "{}", text(&signed.stderr));
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let pair = load_pem(&read("cp-1.contoso.com.pem"), &read("cp-1.contoso.com.key")).unwrap();
    let leaf: Certificate = pair.leaf().unwrap();
    assert_eq!(leaf.dns_names, ["cp-1.contoso.com"]);
    assert!(leaf.client_auth && !leaf.is_ca);
    let days = (leaf.not_after.as_secs() - UnixTime::now().as_secs()).div_ceil(86_400);
    assert_eq!(days, 7);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder.join("cp-1.contoso.com.key")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    }
}

/// The configuration of a quickstart that has ended.
fn quickstart_folder() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    let quickstart = Running::start(&["quickstart", "--port", "0", "--dir", dir.to_str().unwrap()]);
    quickstart.line("ready");
    quickstart.signal("-INT");
    assert!(quickstart.end().success());
    (temp, dir)
}

#[test]
fn check_passes_what_is_right_and_names_a_port_in_use_by_its_key() {
    let (_temp, dir) = quickstart_folder();
    let gateway = run(&["check", "gateway.toml"], &dir);
    assert!(gateway.status.success(), "{}", text(&gateway.stderr));
    let well = "gateway.toml: all is well: a gateway of gw.opencmg.test with 2 roles\n";
    assert_eq!(text(&gateway.stdout), well);
    let point = run(&["check", "connection-point.toml"], &dir);
    assert!(point.status.success(), "{}", text(&point.stderr));
    let well = "connection-point.toml: all is well: a connection point of 1 gateway with 2 roles\n";
    assert_eq!(text(&point.stdout), well);

    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    let toml = format!(
        "[gateway]\nlisten = [\"127.0.0.1:0\", \"{address}\"]\nhealth = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n"
    );
    fs::write(dir.join("gateway.toml"), toml).unwrap();
    let what = format!(
        "gateway.toml: gateway.listen[1]: cannot listen on {address}: Address already in use (os error 98)\n"
    );
    for arguments in [
        ["check", "gateway.toml"].as_slice(),
        &["gateway", "--config", "gateway.toml"],
    ] {
        let busy = run(arguments, &dir);
        assert_eq!(busy.status.code(), Some(78));
        assert!(
            text(&busy.stderr).ends_with(&what),
            "{}",
            text(&busy.stderr)
        );
    }
}

#[test]
fn check_takes_a_service_definition_by_itself() {
    let (_temp, dir) = quickstart_folder();
    let service = dir.join("service");
    let well = run(&["check", "service.toml"], &service);
    assert!(well.status.success(), "{}", text(&well.stderr));
    assert_eq!(
        text(&well.stdout),
        "service.toml: all is well: the service definition of gw.opencmg.test with 2 roles\n"
    );
    fs::remove_file(service.join("root.crl")).unwrap();
    let faulty = run(&["check", "service/service.toml"], &dir);
    assert_eq!(faulty.status.code(), Some(78));
    assert_eq!(
        text(&faulty.stderr),
        "service/service.toml: trust.revocation.crls[0]: service/root.crl: cannot be read: \
         No such file or directory (os error 2)\n"
    );
}

#[test]
fn check_tells_every_fault_of_a_connection_point_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let file = "[connection-point]\ncertificate = \"cp.pem\"\nkey = \"cp.key\"\n\
                [[gateway]]\nname = \"gw.example\"\naddresses = [\"gw.example:443\"]\nca = [\"root.pem\"]\n\
                [[role]]\nid = \"1\"\nkind = \"mp\"\nurl = \"https://mp.example\"\n\
                certificate = \"iis.pem\"\nkey = \"iis.key\"\n";
    fs::write(temp.path().join("f.toml"), file).unwrap();
    let output = run(&["check", "f.toml"], temp.path());
    assert_eq!(output.status.code(), Some(78));
    let absent = "cannot be read: No such file or directory (os error 2)";
    assert_eq!(
        text(&output.stderr),
        format!(
            "f.toml: connection-point.certificate: cp.pem: {absent}\n\
             f.toml: connection-point.key: cp.key: {absent}\n\
             f.toml: gateway[0].ca[0]: root.pem: {absent}\n\
             f.toml: role[0].certificate: iis.pem: {absent}\n\
             f.toml: role[0].key: iis.key: {absent}\n\
             f.toml: role[0].kind: is \"mp\" (one of \"management-point\", \"software-update-point\", \"web\" is allowed)\n"
        )
    );
}

#[test]
fn check_prints_every_problem_of_all_files_and_exits_78() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(temp.path().join(name), text).unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    write(
        "f.toml",
        &format!(
            "[gateway]\nindex = 16\nport = 443\nlisten = [\"{address}\"]\nhealth = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n"
        ),
    );
    fs::create_dir(temp.path().join("service")).unwrap();
    write(
        "service/service.toml",
        "[trust]\nanchors = [\"root.pem\"]\n[connection-points]\nca = []\n[[certificate]]\nfile = \"a.pfx\"\n[[role]]\nid = \"1\"\nkind = \"printer\"\n",
    );
    let output = run(&["check", "f.toml"], temp.path());
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        format!(
            "f.toml: gateway.index: is 16 (a whole number from 0 to 15 is allowed)\n\
             f.toml: gateway.port: is not a key here (address, admin, drain-deadline, health, index, listen, store, \
             tunnel-listen are allowed)\n\
             service/service.toml: certificate[0].file: service/a.pfx: cannot be read: No such file or directory (os error 2)\n\
             service/service.toml: connection-points.ca: no trust anchor is given (at least one root is needed)\n\
             service/service.toml: role[0].kind: is \"printer\" (one of \"management-point\", \"software-update-point\", \"web\" is allowed)\n\
             service/service.toml: trust.anchors[0]: service/root.pem: cannot be read: No such file or directory (os error 2)\n\
             f.toml: gateway.listen[0]: cannot listen on {address}: Address already in use (os error 98)\n"
        )
    );
}

#[test]
fn a_connection_points_preflight_says_a_line_for_each_step_and_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    let quickstart = Running::start(&["quickstart", "--port", "0", "--dir", dir.to_str().unwrap()]);
    quickstart.line("ready");
    let check = [
        "connection-point",
        "check",
        "--config",
        "connection-point.toml",
    ];
    let well = run(&check, &dir);
    let verdicts = text(&well.stdout);
    assert!(well.status.success(), "{verdicts}{}", text(&well.stderr));
    for step in [
        "dns",
        "tcp",
        "tls",
        "alpn",
        "clock",
        "authorisation",
        "backend",
    ] {
        let found = verdicts
            .lines()
            .any(|line| line.starts_with(&format!("ok   {step} ")));
        assert!(found, "{step}\n{verdicts}");
    }
    quickstart.signal("-INT");
    assert!(quickstart.end().success());

    let ill = run(&check, &dir);
    assert_eq!(ill.status.code(), Some(1));
    let verdicts = text(&ill.stdout);
    let failed: Vec<_> = verdicts
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert!(failed.len() >= 3, "{verdicts}");
    for line in failed {
        assert!(line.contains(" -> "), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let (_temp, dir) = quickstart_folder();
    let socket_path = dir.join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&socket_path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = |what: &str| loop {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if message.lines().any(|line| line == what) {
            return;
        }
    };
    for (role, file, said) in [
        ("gateway", "gateway.toml", "listening"),
        (
            "connection-point",
            "connection-point.toml",
            "dialling the gateways",
        ),
    ] {
        let log = dir.join(format!("{role}.log"));
        let child = opencmg(&[role, "--config", file])
            .current_dir(&dir)
            .env("NOTIFY_SOCKET", &socket_path)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut running = Running {
            child,
            lines: mpsc::channel().1,
        };
        told("READY=1");
        running.signal("-HUP");
        told("RELOADING=1");
        told("READY=1");
        running.signal("-TERM");
        told("STOPPING=1");
        assert!(running.child.wait().unwrap().success(), "{role}");
        let log = fs::read_to_string(&log).unwrap();
        assert!(log.contains(said), "{log}");
        assert!(log.contains("has not changed"), "{log}");
    }
}

/// What the administration port of a process says.
fn metrics(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn wait_for_metric(address: &str, line: &str) {
    let begun = SystemTime::now();
    while !metrics(address).contains(line) {
        let waited = begun.elapsed().unwrap_or_default();
        assert!(
            waited < Duration::from_secs(5),
            "{line}\n{}",
            metrics(address)
        );
    }
}

#[test]
fn a_change_of_the_service_definition_is_taken_over_by_itself_and_a_bad_one_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("q");
    let quickstart = Running::start(&["quickstart", "--port", "0", "--dir", dir.to_str().unwrap()]);
    let address = quickstart.line("  metrics").replace("/metrics", "");
    let (_, address) = address.split_once("http://").unwrap();
    let curl = quickstart.line("curl ");
    let file = dir.join("service/service.toml");
    let good = fs::read_to_string(&file).unwrap();

    fs::write(&file, format!("{good}retries = 3\n")).unwrap();
    wait_for_metric(address, "opencmg_reloads_total{outcome=\"refused\"} 1");
    assert_eq!(paste(&curl).0, "HTTP/1.1 200 OK");

    let last = "root-host = \"mp.opencmg.test\"\n";
    let off = format!("{last}[[role.endpoint]]\nname = \"SMS_MP\"\noff = true\n");
    let other = good.replace(last, &off);
    assert_ne!(other, good);
    fs::write(&file, other).unwrap();
    wait_for_metric(address, "opencmg_reloads_total{outcome=\"applied\"} 1");
    assert_eq!(paste(&curl).0, "HTTP/1.1 404 CMGService_UnknownEndpoint");

    fs::write(&file, good).unwrap();
    wait_for_metric(address, "opencmg_reloads_total{outcome=\"applied\"} 2");
    assert_eq!(paste(&curl).0, "HTTP/1.1 200 OK");
    quickstart.signal("-INT");
    assert!(quickstart.end().success());
}

#[test]
fn a_connection_point_takes_a_changed_file_over_by_itself_and_a_bad_one_changes_nothing() {
    let (_temp, dir) = quickstart_folder();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let file = dir.join("connection-point.toml");
    let good = fs::read_to_string(&file).unwrap();
    let good = good.replace("admin = \"127.0.0.1:0\"", &format!("admin = \"{address}\""));
    fs::write(&file, &good).unwrap();
    let file_name = file.to_str().unwrap();
    let running = Running::start(&["connection-point", "--config", file_name]);
    let begun = SystemTime::now();
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(begun.elapsed().unwrap_or_default() < DEADLINE);
    }
    fs::write(&file, format!("{good}retries = 3\n")).unwrap();
    wait_for_metric(&address, "opencmg_reloads_total{outcome=\"refused\"} 1");
    fs::write(
        &file,
        good.replace("[[gateway]]", "tunnels = 3\n[[gateway]]"),
    )
    .unwrap();
    wait_for_metric(&address, "opencmg_reloads_total{outcome=\"applied\"} 1");
    running.signal("-TERM");
    assert!(running.end().success());
}
