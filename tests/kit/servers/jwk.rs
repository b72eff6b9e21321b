//! An issuer of tokens for tests: keys, their JWK set, and a server for it that can misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

/// A key pair, with its algorithm and its published form.
pub(crate) struct Key {
    algorithm: Algorithm,
    secret: EncodingKey,
    pub(crate) public: Value,
}

/// Encodes octets in the base64 of JWKs (RFC 4648, 5).
pub(crate) fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in octets.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

impl Key {
    pub(crate) fn p256(kid: &str) -> Self {
        let random = SystemRandom::new();
        let secret = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, secret.as_ref(), &random);
        let pair = pair.unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        Self {
            algorithm: Algorithm::ES256,
            secret: EncodingKey::from_ec_der(secret.as_ref()),
            public: json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": base64(x), "y": base64(y)}),
        }
    }

    pub(crate) fn rsa(kid: &str) -> Self {
        // Made once, because that takes a while.
        static SECRET: LazyLock<rsa::RsaPrivateKey> =
            LazyLock::new(|| rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap());
        let (n, e) = (SECRET.n().to_bytes_be(), SECRET.e().to_bytes_be());
        Self {
            algorithm: Algorithm::RS256,
            secret: EncodingKey::from_rsa_der(SECRET.to_pkcs1_der().unwrap().as_bytes()),
            public: json!({"kty": "RSA", "alg": "RS256", "kid": kid, "n": base64(&n), "e": base64(&e)}),
        }
    }

    pub(crate) fn kid(&self) -> String {
        self.public["kid"].as_str().unwrap().to_owned()
    }

    /// Returns a token with these claims and this key id.
    pub(crate) fn sign_as(&self, kid: Option<String>, claims: &Value) -> String {
        encode(&Header { kid, ..Header::new(self.algorithm) }, claims, &self.secret).unwrap()
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(Some(self.kid()), claims)
    }
}

/// Returns a token with any header and any signature.
pub(crate) fn token(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| base64(value.to_string().as_bytes());
    format!("{}.{}.{}", part(header), part(claims), base64(signature))
}

/// Returns the claims of valid tokens for torrent `a`.
pub(crate) fn claims() -> Value {
    json!({"iss": "the issuer", "aud": "the tracker", "infohash": "61".repeat(20)})
}

/// Returns the hook with its options, with the keys at `url`.
pub(crate) fn hook(url: &str) -> Value {
    json!([{"name": "jwt", "options": {"issuer": "the issuer", "audience": "the tracker",
        "jwk_set_url": url, "jwk_set_update_interval": "1s"}}])
}

/// What the server answers.
#[derive(Clone)]
pub(crate) enum ServerBehaviour {
    Set(Value),
    Raw(Vec<u8>),
    /// It accepts connections and does not answer.
    Silent,
}

/// A server of a JWK set on loopback.
pub(crate) struct JwkServer {
    pub(crate) port: u16,
    behaviour: Arc<Mutex<ServerBehaviour>>,
    fetches: Arc<AtomicUsize>,
}

impl JwkServer {
    pub(crate) fn start(behaviour: ServerBehaviour) -> Self {
        Self::start_with(behaviour, |stream, reply| {
            let mut stream = stream;
            read_head(&mut stream);
            _ = stream.write_all(reply);
        })
    }

    /// Serves each connection with `answer`, with TLS or without.
    pub(crate) fn start_with(
        behaviour: ServerBehaviour,
        answer: impl Fn(TcpStream, &[u8]) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (behaviour, fetches) = (Arc::new(Mutex::new(behaviour)), Arc::new(AtomicUsize::new(0)));
        let (own_behaviour, own_fetches) = (Arc::clone(&behaviour), Arc::clone(&fetches));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                own_fetches.fetch_add(1, Ordering::Relaxed);
                match own_behaviour.lock().unwrap().clone() {
                    ServerBehaviour::Set(set) => {
                        answer(stream, &response("200 OK", set.to_string().as_bytes()))
                    }
                    ServerBehaviour::Raw(raw) => answer(stream, &raw),
                    ServerBehaviour::Silent => silent.push(stream),
                }
            }
        });
        Self { port, behaviour, fetches }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/keys?secret=sesame", self.port)
    }

    pub(crate) fn set(&self, behaviour: ServerBehaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

pub(crate) fn keys(keys: &[&Key]) -> ServerBehaviour {
    ServerBehaviour::Set(json!({"keys": keys.iter().map(|key| &key.public).collect::<Vec<_>>()}))
}

pub(crate) fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub(crate) fn read_head(stream: &mut impl Read) {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|len| len == 1) {
        head.push(octet[0]);
    }
}
