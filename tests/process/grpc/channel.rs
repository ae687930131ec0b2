//! tonic's client side on a [`Client`] of any protocol.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::Mutex;
use tonic::codegen::Service;

use crate::client::{Client, Download, Failure, Upload};

type Pieces = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Failure>> + Send>>;

/// A connection that gRPC calls share.
#[derive(Clone)]
pub struct Channel(Arc<Mutex<Client>>);

impl Channel {
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Mutex::new(client)))
    }
}

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<StreamBody<Pieces>>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let mut client = client.lock().await;
            let mut request = client.request(head.method.as_str(), head.uri.path());
            request.headers_mut().extend(head.headers);
            let exchange = client.open(request).await?;
            client.spawn(upload(body, exchange.upload));
            drop(client);
            Ok(exchange.response.await?.map(|body| StreamBody::new(pieces(body))))
        })
    }
}

/// A body that fails is a call that was dropped: it is broken off, not ended.
async fn upload(mut body: tonic::body::Body, mut upload: Upload) {
    while let Some(frame) = body.frame().await {
        let Ok(Ok(data)) = frame.map(Frame::into_data) else { return upload.abort().await };
        if upload.data(data).await.is_err() {
            return;
        }
    }
    let _ = upload.finish().await;
}

fn pieces(body: Download) -> Pieces {
    Box::pin(futures_util::stream::unfold(body, |mut body| async { body.frame().await.map(|frame| (frame, body)) }))
}
