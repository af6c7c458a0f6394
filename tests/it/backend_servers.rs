//! Real servers from Debian, each on a free port with a configuration of its own, ended when dropped.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use opencmg::allowance::Allowance;
use opencmg::backend::{AnswerBody, Backend, BackendSettings, BaseUrl, Failure, Terms};
use opencmg::metrics::{ByRole, Metrics};
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity, certificates_to_pem};
use opencmg::role::{Kind, RoleId};
use opencmg::tasks::Tasks;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::spawn;
use crate::world::{eventually, free_address, now};

/// A server process and its folder.
pub struct Server {
    pub address: SocketAddr,
    dir: TempDir,
    child: Child,
}

/// A certification authority, and a folder for what it issues.
pub struct Ca {
    authority: Authority,
    dir: TempDir,
}

/// A backend under test with the component's own counters.
pub struct Subject {
    pub backend: Backend<Full<Bytes>>,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

impl Server {
    /// nginx with these lines in its `http` block; `@ADDRESS@` and `@DIR@` are filled in.
    pub async fn nginx(http: &str) -> Self {
        let dir = folder();
        let temp = ["body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = temp
            .iter()
            .map(|kind| {
                let of = if *kind == "body" { "client_body" } else { kind };
                format!("{of}_temp_path @DIR@/{kind};\n")
            })
            .collect();
        let config = format!(
            "daemon off; master_process off; pid @DIR@/pid; error_log @DIR@/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; {paths} {http} }}\n"
        );
        Self::start("nginx", "nginx-light", dir, &config, |config| {
            let mut command = Command::new("/usr/sbin/nginx");
            command.arg("-c").arg(config).arg("-e").arg("stderr");
            command
        })
        .await
    }

    /// Apache with these lines in its one virtual host; `@ADDRESS@` and `@DIR@` are filled in.
    pub async fn apache(host: &str) -> Self {
        let dir = folder();
        fs::create_dir(dir.path().join("htdocs")).unwrap();
        let modules = [
            "mpm_event",
            "authz_core",
            "ssl",
            "headers",
            "reflector",
            "alias",
        ];
        let modules: String = modules
            .iter()
            .map(|name| {
                format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
            })
            .collect();
        let config = format!(
            "{modules}ServerName localhost\nPidFile @DIR@/pid\nErrorLog @DIR@/error.log\nMutex file:@DIR@\n\
             User www-data\nGroup www-data\nListen @ADDRESS@\nDocumentRoot @DIR@/htdocs\nTimeout 20\n\
             StartServers 1\nServerLimit 1\nThreadsPerChild 16\nMaxRequestWorkers 16\n\
             <VirtualHost @ADDRESS@>\n{host}\n</VirtualHost>\n"
        );
        Self::start("apache2", "apache2", dir, &config, |config| {
            let mut command = Command::new("/usr/sbin/apache2");
            command.arg("-f").arg(config).arg("-DFOREGROUND");
            command
        })
        .await
    }

    async fn start(
        program: &str,
        package: &str,
        dir: TempDir,
        config: &str,
        command: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let address = free_address();
        let text = config
            .replace("@ADDRESS@", &address.to_string())
            .replace("@DIR@", &dir.path().display().to_string());
        let file = dir.path().join("server.conf");
        fs::write(&file, text).unwrap();
        let child = command(&file)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} cannot be started ({error}): install the package {package}")
            });
        let mut server = Self {
            address,
            dir,
            child,
        };
        eventually(&format!("{program} listens"), async || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} ended: {}", server.log());
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        server
    }

    /// What the server wrote to its error log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// Its base URL.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}", self.address.port())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Apache ends its children on TERM only.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.child.wait();
    }
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    // A server that was started as root reads it as another user.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

impl Ca {
    /// A new authority.
    pub fn new() -> Self {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let authority = Authority::root("Backend CA", key, Validity::days(now(), 30)).unwrap();
        let dir = folder();
        let pem = certificates_to_pem(&[authority.certificate().clone()]);
        fs::write(dir.path().join("ca.pem"), pem).unwrap();
        Self { authority, dir }
    }

    /// The authority's certificate.
    pub fn pem(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Issues a certificate; returns the files of its chain and key.
    pub fn issue(&self, name: &str, algorithm: KeyAlgorithm, leaf: &Leaf) -> (PathBuf, PathBuf) {
        let key = Key::generate(algorithm).unwrap();
        let pair = self.authority.issue(leaf, &key).unwrap();
        let (chain, file) = (
            self.dir.path().join(format!("{name}.pem")),
            self.dir.path().join(format!("{name}.key")),
        );
        fs::write(&chain, certificates_to_pem(&pair.chain)).unwrap();
        fs::write(&file, key.to_pem()).unwrap();
        (chain, file)
    }

    /// Issues a server certificate for `localhost`.
    pub fn localhost(&self, algorithm: KeyAlgorithm) -> (PathBuf, PathBuf) {
        let leaf = Leaf::server(&["localhost"], Validity::days(now(), 30));
        self.issue("localhost", algorithm, &leaf)
    }
}

/// Settings of a backend at a URL.
pub fn settings(url: &str) -> BackendSettings {
    BackendSettings {
        id: RoleId::new(5),
        kind: Kind::ManagementPoint,
        url: BaseUrl::parse(url).unwrap(),
        ..BackendSettings::default()
    }
}

impl Subject {
    /// A backend with these settings.
    pub fn new(settings: BackendSettings) -> Self {
        let (metrics, tasks) = (Metrics::new(), Tasks::new());
        let backend = Backend::build(settings, &metrics, &tasks, &Allowance::default()).unwrap();
        Self {
            backend,
            metrics,
            tasks,
        }
    }

    /// Sends a request and returns the head of the answer.
    pub async fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<AnswerBody<Full<Bytes>>>, Failure> {
        self.backend.send(request, Terms::default()).await
    }

    /// Sends a request and reads the answer to its end.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let (head, body) = self.start(request).await?.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Connections made so far.
    pub fn dials(&self) -> u64 {
        let role = ByRole::new(RoleId::new(5));
        self.metrics.backend_dials.get_or_create(&role).get()
    }

    /// Connections open now.
    pub fn open(&self) -> i64 {
        let role = ByRole::new(RoleId::new(5));
        self.metrics.backend_connections.get_or_create(&role).get()
    }

    /// Connections idle now.
    pub fn idle(&self) -> i64 {
        let role = ByRole::new(RoleId::new(5));
        self.metrics.backend_idle.get_or_create(&role).get()
    }

    /// Drops the backend and waits until none of its tasks is left.
    pub async fn finish(self) {
        drop(self.backend);
        crate::world::within(
            std::time::Duration::from_secs(10),
            "every task of the backend ends",
            self.tasks.join(),
        )
        .await;
    }
}

/// A request with a body.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = body.into();
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header("content-length", body.len());
    }
    request.body(Full::new(body)).unwrap()
}

/// A server whose connections a closure plays; it ends when dropped.
pub struct Raw {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
}

impl Raw {
    pub async fn start<F, Fut>(play: F) -> Self
    where
        F: Fn(usize, Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), play).await
    }

    pub async fn start_at<F, Fut>(address: SocketAddr, play: F) -> Self
    where
        F: Fn(usize, Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let accept = spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                spawn(play(number, Wire(tcp)));
            }
        });
        Self {
            address,
            accepted,
            accept,
        }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The connections taken so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// One connection of a scripted server.
pub struct Wire<S = TcpStream>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Reads one request head; `None` when the peer has closed.
    pub async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        Some(String::from_utf8(head).unwrap())
    }

    /// Reads a body of a known length.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        body
    }

    /// Sends text as it is.
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a 200 with a body.
    pub async fn answer(&mut self, body: &str) {
        let length = body.len();
        self.say(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }
}

/// A scripted server behind TLS.
pub struct TlsRaw {
    pub address: SocketAddr,
    _raw: Raw,
}

impl TlsRaw {
    /// Starts a server with a certificate; a closure plays each of its connections.
    pub async fn start<F, Fut>(certificate: &Path, key: &Path, play: F) -> Self
    where
        F: Fn(usize, Wire<TlsStream<TcpStream>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let (acceptor, play) = (TlsAcceptor::from(Arc::new(config)), Arc::new(play));
        let raw = Raw::start(move |number, wire| {
            let (acceptor, play) = (acceptor.clone(), play.clone());
            async move {
                let stream = acceptor.accept(wire.0).await.unwrap();
                play(number, Wire(stream)).await;
            }
        })
        .await;
        Self {
            address: raw.address,
            _raw: raw,
        }
    }
}
