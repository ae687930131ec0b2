//! Connections that a killed edge leaves behind: the one that is started again tells their clients at once.

use quinn::ConnectionError;

use crate::chain::{Chain, Setup, eventually, in_time};
use crate::client::raw::{Raw, frame};

#[tokio::test]
async fn an_edge_with_a_state_folder_resets_connections_of_before_its_restart() {
    let setup = Setup { edge_top: "state_dir = \"state\"", origin: false, ..Setup::default() };
    let mut chain = Chain::with(setup).await;
    // Several, so that each worker has some of them: every one has the keys.
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = Raw::connect(&chain).await;
        // Until then a client repeats its handshake only, in packets that draw no reset.
        let confirmed = async || (client.connection.stats().frame_rx.handshake_done > 0).then_some(());
        eventually("the handshake is confirmed", confirmed).await;
        clients.push(client);
    }
    chain.edges[0].signal(libc::SIGKILL);
    chain.edges[0].ended().await;
    chain.restart_edge(0).await;
    for mut client in clients {
        // Only a packet of the client's makes the edge say anything (RFC 9000 section 10.3); an acknowledgement may have
        // done it already.
        let _ = client.control.write_all(&frame(0x21, b"grease")).await;
        let error = in_time("a stateless reset", client.connection.closed()).await;
        assert_eq!(error, ConnectionError::Reset);
    }
}
