//! gRPC with tonic at both ends: all four kinds of call, metadata, trailers and errors, over HTTP/2 and HTTP/3, to an
//! upstream that speaks HTTP/2 in the clear.

mod channel;
mod server;

use bytes::{Buf, BufMut, Bytes};
use futures_util::StreamExt;
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::chain::{Chain, Setup, in_time};
use crate::client::{Client, MULTIPLEXED, Protocol};
use channel::Channel;
use server::Server;

/// Messages are bytes: no protobuf, all of gRPC.
#[derive(Clone, Copy, Default)]
pub struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

/// A chain in front of a gRPC server.
async fn start() -> (Server, Chain) {
    let server = Server::start().await;
    let upstreams = vec![format!("h2c://{}", server.addr)];
    let chain = Chain::with(Setup { upstreams, ..Setup::default() }).await;
    (server, chain)
}

async fn client(chain: &Chain, protocol: Protocol) -> tonic::client::Grpc<Channel> {
    let mut grpc = tonic::client::Grpc::new(Channel::new(Client::connect(chain, protocol).await));
    grpc.ready().await.expect("ready");
    grpc
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

fn numbers(count: usize) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    futures_util::stream::iter((0..count).map(|n| Bytes::from(n.to_string())))
}

#[tokio::test]
async fn unary_calls_carry_metadata_both_ways() {
    let (_server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let mut request = Request::new(Bytes::from(vec![b'm'; 100_000]));
        request.metadata_mut().insert("x-question", "why".parse().expect("value"));
        request.metadata_mut().insert_bin("x-bytes-bin", tonic::metadata::MetadataValue::from_bytes(&[0, 255]));
        let response = in_time("an answer", grpc.unary(request, path("/test/Unary"), Plain)).await.expect("ok");
        assert!(response.metadata().get("x-question").is_some_and(|value| value == "why"), "{protocol:?}");
        assert!(response.metadata().get_bin("x-bytes-bin").is_some(), "{protocol:?}");
        assert_eq!(response.into_inner().len(), 100_000, "{protocol:?}");
    }
}

#[tokio::test]
async fn errors_arrive_with_code_message_and_details() {
    let (_server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let call = grpc.unary(Request::new(Bytes::from("fail")), path("/test/Unary"), Plain);
        let status = in_time("an answer", call).await.expect_err("an error");
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not today: ümlaut"), "{protocol:?}");
        assert_eq!(status.details(), b"\x01\x02", "{protocol:?}");
        let call = grpc.unary(Request::new(Bytes::new()), path("/test/Nothing"), Plain);
        assert_eq!(in_time("an answer", call).await.expect_err("an error").code(), Code::Unimplemented, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_can_stream() {
    let (_server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let call = grpc.client_streaming(Request::new(numbers(1_000)), path("/test/Collect"), Plain);
        let response = in_time("an answer", call).await.expect("ok");
        assert_eq!(&response.into_inner()[..], b"1000 messages, 2890 bytes", "{protocol:?}");
    }
}

#[tokio::test]
async fn a_server_can_stream_and_end_with_an_error() {
    let (_server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let call = grpc.server_streaming(Request::new(Bytes::from("500")), path("/test/Count"), Plain);
        let mut messages = in_time("an answer", call).await.expect("ok").into_inner();
        for n in 0..500 {
            let message = in_time("a message", messages.next()).await.expect("more").expect("ok");
            assert_eq!(message, n.to_string(), "{protocol:?}");
        }
        let last = in_time("the end", messages.next()).await.expect("an error behind the messages");
        assert_eq!(last.expect_err("the status in the trailers").code(), Code::OutOfRange, "{protocol:?}");
    }
}

#[tokio::test]
async fn both_sides_can_stream_in_turns() {
    let (_server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let (questions, queue) = tokio::sync::mpsc::channel::<Bytes>(1);
        let queue =
            futures_util::stream::unfold(queue, |mut queue| async { queue.recv().await.map(|next| (next, queue)) });
        let call = grpc.streaming(Request::new(queue), path("/test/Echo"), Plain);
        let mut answers = in_time("a head before any message", call).await.expect("ok").into_inner();
        for n in 0..100 {
            let question = Bytes::from(format!("question {n}"));
            questions.send(question.clone()).await.expect("the call goes on");
            let answer = in_time("an answer", answers.next()).await.expect("more").expect("ok");
            assert_eq!(answer, question, "{protocol:?}");
        }
        drop(questions);
        assert!(in_time("the end", answers.next()).await.is_none(), "{protocol:?}: a clean end with status 0");
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_the_server() {
    let (mut server, chain) = start().await;
    for protocol in MULTIPLEXED {
        let mut grpc = client(&chain, protocol).await;
        let (questions, queue) = tokio::sync::mpsc::channel::<Bytes>(1);
        let queue =
            futures_util::stream::unfold(queue, |mut queue| async { queue.recv().await.map(|next| (next, queue)) });
        let call = grpc.streaming(Request::new(queue), path("/test/Echo"), Plain);
        let mut answers = in_time("a head", call).await.expect("ok").into_inner();
        questions.send("x".into()).await.expect("the call goes on");
        in_time("an answer", answers.next()).await.expect("more").expect("ok");
        drop((answers, questions, grpc));
        in_time("the server's call ends", server.cancelled()).await;
    }
}
