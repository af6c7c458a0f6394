//! `gateway.toml`: what belongs to one gateway process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::gateway::Settings;
use crate::logging;
use crate::process;
use crate::settings::{Problem, Reader, Source};

const STORE: &str = "\"file:\" and a folder, as in \"file:service\"";
const DEFAULT_STORE: &str = "file:service";

/// What `gateway.toml` says.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The settings that the gateway is built from.
    pub settings: Settings,
    /// Where and how is logged.
    pub log: logging::Settings,
    /// The folder of the service definition.
    pub store: PathBuf,
}

/// Reads and checks `gateway.toml`.
///
/// # Errors
/// Everything that is wrong with it, in the order of its keys.
pub fn load_gateway(path: &Path) -> Result<Gateway, Vec<Problem>> {
    let (gateway, problems) = inspect_gateway(path).map_err(|problem| vec![problem])?;
    problems.is_empty().then_some(gateway).ok_or(problems)
}

/// Reads `gateway.toml` and goes on where it is wrong: returns what it says, with defaults in the place of faults, and
/// every fault.
///
/// # Errors
/// One problem, if it cannot be read or is not TOML.
pub fn inspect_gateway(path: &Path) -> Result<(Gateway, Vec<Problem>), Problem> {
    let source = Source::load(path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let gateway = read(&source.root(), folder);
    Ok((gateway, source.finish()))
}

pub(super) fn read(root: &Reader<'_>, folder: &Path) -> Gateway {
    let table = root.table("gateway");
    let mut settings = Settings::read(root, &table);
    if !root.has_in("tunnel", "buffered-bytes") {
        settings.budget.bytes = process::default_buffer_budget();
    }
    check_addresses(&table, &settings);
    Gateway {
        settings,
        log: logging::Settings::read(&root.table("log")),
        store: read_store(&table, folder),
    }
}

fn read_store(table: &Reader<'_>, folder: &Path) -> PathBuf {
    let of = |text: &str| {
        let path = text.strip_prefix("file:").filter(|path| !path.is_empty())?;
        Some(folder.join(path))
    };
    let read = table.parsed("store", STORE, of);
    read.or_else(|| of(DEFAULT_STORE)).unwrap_or_default()
}

/// Every address that a gateway listens on, with its key in `[gateway]`.
pub fn addresses(settings: &Settings) -> Vec<(String, SocketAddr)> {
    let listed = |key: &str, addresses: &[SocketAddr]| -> Vec<_> {
        let named = |(index, address): (usize, &SocketAddr)| (format!("{key}[{index}]"), *address);
        addresses.iter().enumerate().map(named).collect()
    };
    let mut all = listed("listen", &settings.listen);
    all.extend(listed("tunnel-listen", &settings.tunnel_listen));
    all.extend(
        settings
            .health
            .map(|address| ("health".to_owned(), address)),
    );
    all.extend(settings.admin.map(|address| ("admin".to_owned(), address)));
    all
}

/// Every address stands once; port 0 means any, as often as one likes.
fn check_addresses(table: &Reader<'_>, settings: &Settings) {
    let mut seen = BTreeMap::new();
    let all = addresses(settings).into_iter();
    for (key, address) in all.filter(|(_, address)| address.port() != 0) {
        if let Some(first) = seen.get(&address) {
            table.fault(&key, format!("{address} is the address of {first} already"));
        } else {
            seen.insert(address, key);
        }
    }
    if settings.listen.is_empty() {
        table.fault(
            "listen",
            "is empty (at least one address with a port is needed)",
        );
    }
}
