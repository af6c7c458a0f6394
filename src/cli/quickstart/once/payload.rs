//! The bodies that `--once` sends: a message of the ConfigMgr client, and a scan of the update agent.

use bytes::Bytes;

/// What stands between the parts of a message.
pub(super) const BOUNDARY: &str = "aAbBcCdDv1234567890VxXyYzZ";

/// A message of the ConfigMgr client: a header in UTF-16, and a payload.
pub(super) fn message(payload: Bytes) -> Bytes {
    let header: Vec<u8> = "<Msg ReplyCompression=\"none\" SchemaVersion=\"1.1\"/>"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let mut body = Vec::with_capacity(payload.len() + 512);
    let part = |media_type: &str| format!("--{BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n");
    body.extend_from_slice(part("text/plain; charset=UTF-16").as_bytes());
    body.extend_from_slice(&header);
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(part("application/octet-stream").as_bytes());
    body.extend_from_slice(&payload);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--").as_bytes());
    body.into()
}

/// A scan of a computer that has two hundred updates.
pub(super) fn envelope() -> String {
    let updates: String = (0..200)
        .map(|id| format!("<int>{}</int>", 1000 + id))
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope \
         xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body><SyncUpdates><parameters>\
         <InstalledNonLeafUpdateIDs>{updates}</InstalledNonLeafUpdateIDs></parameters></SyncUpdates>\
         </soap:Body></soap:Envelope>"
    )
}
