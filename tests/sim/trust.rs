//! Certificates and keys of the simulated processes, made once: everything that has a size has the same in each run.

use std::sync::{Arc, OnceLock};

use quinn::EndpointConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SerialNumber};
use trunkline::config::{TunnelIdentity, TunnelLimits};
use trunkline::quic::{QuicKeys, Worker};
use trunkline::tunnel::endpoint::{Credentials, transport};
use trunkline::tunnel::identity::POP_SERVER_NAME;

use crate::host::Node;

pub struct Trust {
    credentials: Credentials,
    keys: QuicKeys,
}

/// The one of this test process.
pub fn get() -> &'static Trust {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    TRUST.get_or_init(Trust::new)
}

impl Trust {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("key");
        let mut ca = CertificateParams::new(vec![]).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.serial_number = Some(SerialNumber::from(1));
        let ca_key = key();
        let ca_cert = ca.self_signed(&ca_key).expect("certificate");
        let mut leaf = CertificateParams::new(vec![POP_SERVER_NAME.into()]).expect("parameters");
        leaf.serial_number = Some(SerialNumber::from(2));
        let leaf_key = key();
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key)).expect("certificate");
        let path = |name: &str| dir.path().join(name);
        let identity = TunnelIdentity { cert: path("cert"), key: path("key"), ca: path("ca") };
        std::fs::write(&identity.ca, ca_cert.pem()).expect("write");
        std::fs::write(&identity.cert, leaf.pem()).expect("write");
        std::fs::write(&identity.key, leaf_key.serialize_pem()).expect("write");
        Self {
            credentials: Credentials::load(&identity).expect("credentials"),
            keys: QuicKeys::load(None).expect("keys"),
        }
    }

    /// A PoP's keys stay the same when it restarts; a gateway's are its own.
    pub fn endpoint_config(&self, node: Node) -> EndpointConfig {
        match node {
            Node::Pop(_) => self.keys.endpoint_config(Worker::new(0, 1).expect("one worker")),
            Node::Gateway(_) => EndpointConfig::default(),
        }
    }

    pub fn server(&self, limits: &TunnelLimits) -> quinn::ServerConfig {
        self.credentials.server_config(Arc::new(transport(limits)), self.keys.token_key()).expect("server")
    }

    pub fn client(&self, limits: &TunnelLimits) -> quinn::ClientConfig {
        self.credentials.client_config(Arc::new(transport(limits))).expect("client")
    }
}
