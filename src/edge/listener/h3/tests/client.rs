//! The h3 crate as client: an implementation other than ours reads what we write.

use bytes::{Buf, BytesMut};
use h3::client::{RequestStream, SendRequest};

use super::*;

type Requests = SendRequest<h3_quinn::OpenStreams, Bytes>;
type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// A client; its connection is driven by a task of the server's shutdown.
async fn client(server: &Server) -> Requests {
    let quinn = server.connect().await;
    let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(quinn)).await.unwrap();
    Tasks::new(server.shutdown.clone()).spawn(async move {
        std::future::poll_fn(|cx| driver.poll_close(cx)).await;
    });
    requests
}

fn request(method: Method, path: &str) -> http::Request<()> {
    http::Request::builder().method(method).uri(format!("https://localhost{path}")).body(()).unwrap()
}

async fn body(stream: &mut Stream) -> Bytes {
    let mut whole = BytesMut::new();
    while let Some(mut piece) = within(stream.recv_data()).await.unwrap() {
        whole.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
    }
    whole.freeze()
}

async fn get(requests: &mut Requests, path: &str) -> (http::Response<()>, Bytes) {
    let mut stream = requests.send_request(request(Method::GET, path)).await.unwrap();
    stream.finish().await.unwrap();
    let head = within(stream.recv_response()).await.unwrap();
    let body = body(&mut stream).await;
    (head, body)
}

#[tokio::test]
async fn a_get_is_answered() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let (head, body) = get(&mut requests, "/").await;
    assert_eq!((head.status(), body), (StatusCode::OK, Bytes::from("hello")));
    assert_eq!(head.headers()["server"], "test");
    assert_eq!(head.headers()["content-length"], "5");
}

#[tokio::test]
async fn fields_survive_both_ways() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let mut sent = request(Method::GET, "/headers");
    for (name, value) in [
        ("accept", "*/*"),
        ("accept", "text/html"),
        ("accept-encoding", "gzip, deflate, br"),
        ("content-type", "text/plain;charset=utf-8"),
        ("x-frame-options", "sameorigin"),
        ("user-agent", "a (b; c) \"d\" {e} \\ | ~ ^ `"),
        ("x-latin", "caf\u{e9}"),
        ("x-empty", ""),
    ] {
        sent.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    for length in 0..30 {
        sent.headers_mut().append("x-many", HeaderValue::try_from("z".repeat(length * 11)).unwrap());
    }
    let expected = sent.headers().clone();
    let mut stream = requests.send_request(sent).await.unwrap();
    stream.finish().await.unwrap();
    let head = within(stream.recv_response()).await.unwrap();
    for name in expected.keys() {
        let sent: Vec<_> = expected.get_all(name).iter().collect();
        let back: Vec<_> = head.headers().get_all(name).iter().collect();
        assert_eq!(sent, back, "{name}");
    }
}

#[tokio::test]
async fn a_large_post_comes_back_whole_with_trailers() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let stream = requests.send_request(request(Method::POST, "/echo")).await.unwrap();
    let (mut send, mut receive) = stream.split();
    let block = Bytes::from((0..100_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let upload = async {
        for _ in 0..50 {
            send.send_data(block.clone()).await.unwrap();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        send.send_trailers(trailers).await.unwrap();
        send.finish().await.unwrap();
    };
    let download = async {
        assert_eq!(receive.recv_response().await.unwrap().status(), StatusCode::OK);
        let mut got = 0;
        while let Some(piece) = receive.recv_data().await.unwrap() {
            for byte in piece.chunk() {
                assert_eq!(*byte, ((got % 100_000) % 251) as u8);
                got += 1;
            }
        }
        (got, receive.recv_trailers().await.unwrap())
    };
    let ((), (got, trailers)) = within(async { tokio::join!(upload, download) }).await;
    assert_eq!(got, 5_000_000);
    assert_eq!(trailers.unwrap()["x-sum"], "1");
}

#[tokio::test]
async fn the_response_may_begin_before_the_request_ends() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let mut stream = requests.send_request(request(Method::POST, "/echo")).await.unwrap();
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), StatusCode::OK);
    for word in ["ping", "pong"] {
        stream.send_data(Bytes::from(word)).await.unwrap();
        let mut piece = within(stream.recv_data()).await.unwrap().unwrap();
        assert_eq!(piece.copy_to_bytes(piece.remaining()), word);
    }
    stream.finish().await.unwrap();
    assert!(within(stream.recv_data()).await.unwrap().is_none());
}

#[tokio::test]
async fn trailers_follow_a_response() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let mut stream = requests.send_request(request(Method::GET, "/trailers")).await.unwrap();
    stream.finish().await.unwrap();
    within(stream.recv_response()).await.unwrap();
    assert_eq!(body(&mut stream).await, "hello");
    assert_eq!(within(stream.recv_trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn head_has_the_fields_and_no_body() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let mut stream = requests.send_request(request(Method::HEAD, "/")).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(within(stream.recv_response()).await.unwrap().headers()["content-length"], "5");
    assert_eq!(body(&mut stream).await, "");
}

#[tokio::test]
async fn many_requests_at_once_are_served() {
    let server = Server::start(Limits { streams_max: 16, ..Limits::default() });
    let requests = client(&server).await;
    let all = (0..200usize).map(|n| {
        let mut requests = requests.clone();
        async move {
            let path = format!("/large/{}", n * 997);
            let (_, body) = get(&mut requests, &path).await;
            assert_eq!(body.len(), n * 997);
        }
    });
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()>>>> = all.map(|task| Box::pin(task) as _).collect();
    within(std::future::poll_fn(|cx| {
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        if tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    assert_eq!(server.metrics.requests.get(), 200);
}

#[tokio::test]
async fn who_has_several_requests_at_once_may_have_as_many_as_the_limits_say() {
    let most = STREAMS_FIRST as usize + 28;
    let server = Server::start(Limits { streams_max: most as u32, ..Limits::default() });
    let quinn = server.connect().await;
    let mut open = Vec::new();
    while open.len() < most {
        let (mut send, receive) = within(quinn.open_bi()).await.unwrap();
        // The type of a HEADERS frame whose rest never comes.
        send.write_all(&[1]).await.unwrap();
        open.push((send, receive));
    }
    assert!(quinn.stats().frame_rx.max_streams_bidi > 0);
}

#[tokio::test]
async fn who_asks_for_one_thing_after_the_other_is_not_given_more_streams_than_were_used() {
    let server = Server::start(Limits { streams_max: 2 * STREAMS_FIRST, ..Limits::default() });
    let quinn = server.connect().await;
    // The driver closes the connection when it goes.
    let (_driver, mut requests) = h3::client::new(h3_quinn::Connection::new(quinn.clone())).await.unwrap();
    for _ in 0..10 {
        assert_eq!(get(&mut requests, "/").await.1, "hello");
    }
    assert_eq!(quinn.stats().frame_rx.max_streams_bidi, 0);
}

#[tokio::test]
async fn a_large_download_is_whole() {
    let server = Server::start(Limits::default());
    let mut requests = client(&server).await;
    let (_, body) = get(&mut requests, "/large/20000001").await;
    assert_eq!(body.len(), 20_000_001);
}
