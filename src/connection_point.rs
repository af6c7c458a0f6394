//! The connection point: composition only. Dials the gateways, keeps tunnels to them and forwards what they bring.

mod settings;

pub use settings::{GatewaySettings, OutboundProxy, Settings, Way};
