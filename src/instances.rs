//! Who an instance is: its index, its address, a run id that is new with every start, and its version.
//!
//! An instance knows and announces this also when it is alone. The tunnel's hello carries the list of live instances, by which a
//! connection point tells instances behind one address apart and sees that one was restarted. No I/O.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::settings::Reader;

/// The number of instances that a service may have.
pub const INSTANCES_MAX: u16 = 16;

/// What one process is told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which of the service's instances this is, from 0; an instance that is alone is 0.
    pub index: u16,
    /// `host:port` at which connection points reach this instance by itself; `None` behind a shared address.
    pub address: Option<String>,
}

impl Settings {
    /// Reads `index` and `address`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let index = reader.integer("index", 0, 0..=u64::from(INSTANCES_MAX - 1));
        let address = reader.parsed("address", "host:port", |text| {
            let (host, port) = text.rsplit_once(':')?;
            let port: u16 = port.parse().ok()?;
            (!host.is_empty() && port != 0).then(|| text.to_owned())
        });
        Self {
            index: u16::try_from(index).unwrap_or(0),
            address,
        }
    }
}

/// One instance as it announces itself. Unknown fields of a newer peer are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Which of the service's instances, from 0.
    pub index: u16,
    /// `host:port` of this instance alone, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// 32 hexadecimal digits, drawn at start.
    pub run_id: String,
    /// The version of its program.
    pub version: String,
}

impl Instance {
    /// This process, with a run id drawn from `rng`.
    pub fn new(settings: Settings, rng: &mut impl Rng) -> Self {
        let mut id = [0_u8; 16];
        rng.fill_bytes(&mut id);
        Self {
            index: settings.index,
            address: settings.address,
            run_id: format!("{:032x}", u128::from_be_bytes(id)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether the other is the same place after a restart: the same index in another run.
    pub fn is_restart_of(&self, other: &Self) -> bool {
        self.index == other.index && self.run_id != other.run_id
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::settings::Source;

    #[test]
    fn each_start_has_a_run_id_of_its_own() {
        let mut rng = SmallRng::seed_from_u64(1);
        let first = Instance::new(Settings::default(), &mut rng);
        let second = Instance::new(Settings::default(), &mut rng);
        assert_eq!(first.run_id.len(), 32);
        assert!(second.is_restart_of(&first));
        assert!(!first.is_restart_of(&first));
        let elsewhere = Settings {
            index: 1,
            address: None,
        };
        assert!(!Instance::new(elsewhere, &mut rng).is_restart_of(&first));
    }

    #[test]
    fn an_announcement_survives_the_wire_and_unknown_fields_of_a_newer_peer() {
        let settings = Settings {
            index: 3,
            address: Some("gw-3.example:443".into()),
        };
        let instance = Instance::new(settings, &mut SmallRng::seed_from_u64(1));
        let mut json = serde_json::to_value(&instance).unwrap();
        json["load"] = 0.5.into();
        let read: Instance = serde_json::from_value(json).unwrap();
        assert_eq!(read, instance);
    }

    #[test]
    fn an_index_above_15_and_an_address_without_a_port_are_refused() {
        let text = "index = 16\naddress = \"gw.example\"";
        let source = Source::parse("f", Path::new(""), text).unwrap();
        assert_eq!(Settings::read(&source.root()), Settings::default());
        let problems: Vec<_> = source.finish().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "f: address: is \"gw.example\" (host:port is allowed)",
                "f: index: is 16 (a whole number from 0 to 15 is allowed)",
            ]
        );
    }
}
