use std::path::{Path, PathBuf};
use std::sync::Arc;

use aquifer_server::http::Tls;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::stage::{Answer, Server, Setup, Stage, eventually};

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn of(stage: &Stage) -> Files {
        Files { certificate: stage.dir.path().join("cert.pem"), key: stage.dir.path().join("key.pem") }
    }

    /// A new certificate of its own key, in the files.
    fn renew(&self) -> CertificateDer<'static> {
        let made = certificate();
        write(&self.certificate, &made.cert.pem());
        write(&self.key, &made.signing_key.serialize_pem());
        made.cert.der().clone()
    }
}

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

fn write(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
}

/// The answer to a request by somebody who trusts these certificates, and which of them it showed.
async fn get(server: &Server, trusted: &[CertificateDer<'static>]) -> (Answer, CertificateDer<'static>) {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let shown = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    tls.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    tls.read_to_string(&mut text).await.unwrap();
    (Answer::parse(&text), shown)
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let stage = Stage::new();
    let files = Files::of(&stage);
    let old = files.renew();
    let tls = Some(Tls::open(&files.certificate, &files.key).unwrap());
    let server = stage.server("a", Setup { tls, ..Setup::default() }).await;
    let (answer, shown) = get(&server, std::slice::from_ref(&old)).await;
    assert_eq!((answer.status, &shown), (200, &old));
    // Half a renewal: the certificate is of another key.
    let new = certificate();
    let both = [old.clone(), new.cert.der().clone()];
    write(&files.certificate, &new.cert.pem());
    assert_eq!(get(&server, &both).await.1, old);
    write(&files.key, &new.signing_key.serialize_pem());
    eventually("the new certificate", async || get(&server, &both).await.1 == both[1]).await;
}

#[tokio::test]
async fn http_on_a_port_of_tls_is_told_so() {
    let stage = Stage::new();
    let files = Files::of(&stage);
    files.renew();
    let tls = Some(Tls::open(&files.certificate, &files.key).unwrap());
    let server = stage.server("a", Setup { tls, ..Setup::default() }).await;
    let answer = server.execute("", &[], "SELECT 1").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("https://"), "{answer:?}");
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused_at_the_start() {
    let stage = Stage::new();
    let files = Files::of(&stage);
    files.renew();
    write(&files.key, &certificate().signing_key.serialize_pem());
    let error = Tls::open(&files.certificate, &files.key).unwrap_err().to_string();
    assert!(error.contains("cert.pem"), "{error}");
    write(&files.certificate, "");
    let error = Tls::open(&files.certificate, &files.key).unwrap_err().to_string();
    assert!(error.contains("no certificate"), "{error}");
}
