//! Clients with certificates that are served: one request, or many without an end.

use http::Request;
use http_body_util::Full;

use crate::client::{Connection, get};
use crate::load::{Load, Running};
use crate::world::{HOST, World, mp_list};

/// Whether the next request of a connection is answered.
pub async fn is_served(connection: &mut Connection) -> bool {
    let mut request = get(&mp_list());
    request.headers_mut().insert("host", HOST.parse().unwrap());
    let answer = connection.send(request).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Four clients with certificates that send requests all the time.
pub fn live(world: &World) -> Running {
    let request = |_| {
        let request = Request::get(mp_list()).header("host", HOST);
        request.body(Full::default()).unwrap()
    };
    Load::new(world.gateways[0].address, request)
        .tls(world.client("pc-1").configuration(), HOST)
        .connections(4)
        .start()
}
