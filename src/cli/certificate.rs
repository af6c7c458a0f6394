//! A connection point's key, its certificate signing request, and the certificate that answers it.
//!
//! The key is made where it is used and never leaves that machine; the CA's key stays where the CA is. Only the
//! request and the certificate travel.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::files::{Readers, create, read};
use super::print;
use crate::pki::UnixTime;
use crate::pki::issue::{
    Authority, Key, KeyAlgorithm, Request, Validity, certificates_to_pem, request,
};

/// What `connection-point key` takes.
#[derive(Debug, Args)]
pub(super) struct MakeKey {
    /// The connection point's DNS name, as service.toml lists it
    name: String,
    /// The folder for NAME.key, which nobody but its owner may read, and NAME.csr
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// What `connection-point-certificate` takes.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The request that `opencmg connection-point key` made
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// The certificate of the connection-point CA, PEM or DER
    #[arg(long, value_name = "FILE")]
    ca_cert: PathBuf,
    /// The private key of the connection-point CA, PEM
    #[arg(long, value_name = "FILE")]
    ca_key: PathBuf,
    /// How long the certificate is valid, 1 to 3650
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// The certificate's file [default: that of the request, ending in .pem]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Makes a key and a request for it.
pub(super) fn key(options: &MakeKey) -> anyhow::Result<()> {
    let name = options.name.to_ascii_lowercase();
    let key = Key::generate(KeyAlgorithm::EcdsaP256)?;
    let csr = request(&name, &key)?;
    let path = |end: &str| options.dir.join(format!("{name}.{end}"));
    let (key_file, csr_file) = (path("key"), path("csr"));
    create(&key_file, key.to_pem(), Readers::Owner)?;
    create(&csr_file, csr, Readers::All)?;
    print(format!(
        "key      {}  stays on this machine\nrequest  {}  goes to the connection-point CA:\n\
         opencmg connection-point-certificate --csr {} --ca-cert CA.pem --ca-key CA.key",
        key_file.display(),
        csr_file.display(),
        csr_file.display(),
    ))
}

/// Signs a request.
pub(super) fn sign(options: &Sign) -> anyhow::Result<()> {
    let file = |path: &Path| path.display().to_string();
    let wanted = Request::read(&read(&options.csr)?).with_context(|| file(&options.csr))?;
    let authority = Authority::load(&read(&options.ca_cert)?, &read(&options.ca_key)?)
        .with_context(|| format!("{} with {}", file(&options.ca_cert), file(&options.ca_key)))?;
    let validity = Validity::days(UnixTime::now(), options.days);
    let chain = authority.sign_request(&wanted, validity)?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => options.csr.with_extension("pem"),
    };
    create(&out, certificates_to_pem(&chain), Readers::All)?;
    print(format!(
        "certificate  {}  for {}, valid {} days; list the name in service.toml:\n\n[[connection-point]]\nname = \"{}\"",
        file(&out),
        wanted.name(),
        options.days,
        wanted.name(),
    ))
}
