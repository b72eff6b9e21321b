//! Reads the responses of one connection, and accepts only strict HTTP/1.

/// One response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StrictResponse {
    pub(super) version: String,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl StrictResponse {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether no further request may be answered on this connection.
    pub(super) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// Removes the next response from the front of `octets`. A response to a HEAD has no body.
pub(super) fn next_response(octets: &mut &[u8], to_head: bool) -> Result<StrictResponse, String> {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n").ok_or("a head without an end")?;
    let head = std::str::from_utf8(&octets[..end]).map_err(|error| error.to_string())?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let (version, rest) = line.split_once(' ').ok_or_else(|| format!("the status line {line:?}"))?;
    let status = rest.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    if !["HTTP/1.1", "HTTP/1.0"].contains(&version) || !(200..600).contains(&status) {
        return Err(format!("the status line {line:?}"));
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("the header line {line:?}"))?;
        let name = name.to_lowercase();
        if headers.iter().any(|(known, _)| *known == name) || name == "transfer-encoding" {
            return Err(format!("the header line {line:?}"));
        }
        headers.push((name, value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).ok_or("no Content-Length")?;
    let rest = &octets[end + 4..];
    let length = if to_head { 0 } else { length };
    let body = rest.get(..length).ok_or_else(|| format!("{} of {length} octets", rest.len()))?;
    *octets = &rest[length..];
    Ok(StrictResponse { version: version.to_owned(), status, headers, body: body.to_vec() })
}
