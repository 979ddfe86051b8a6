//! gRPC's server reflection: the compiled wire definitions, on request.
//!
//! The final version and its predecessor `v1alpha` have the same messages, so one answers both.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{decode, encode, kind};
use crate::api::{
    descriptors::Descriptors,
    proto::reflection::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    service::{Code, Status},
};

/// Full names of the services of which this server has a method.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    let all = Descriptors::compiled();
    let is_served = |service: &&'static String| {
        all.methods()
            .iter()
            .any(|method| method.service == **service && kind(&method.path).is_some())
    };
    all.services().iter().filter(is_served).map(String::as_str)
}

/// Answers each request of a stream.
pub(super) async fn run(
    mut requests: mpsc::Receiver<Bytes>,
    responses: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    while let Some(request) = requests.recv().await {
        if responses.send(encode(&answer(decode(request)?))).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let all = Descriptors::compiled();
    let response = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let service = |name: &str| ServiceResponse { name: name.to_owned() };
            let service = services().map(service).collect();
            MessageResponse::ListServicesResponse(ListServiceResponse { service })
        }
        Some(MessageRequest::FileByFilename(name)) => files(all.file(name), "file", name),
        Some(MessageRequest::FileContainingSymbol(symbol)) => {
            files(all.file_of(symbol), "symbol", symbol)
        }
        // None of the definitions has extensions.
        Some(MessageRequest::FileContainingExtension(extension)) => {
            files(None, "extension of", &extension.containing_type)
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) if all.knows(name) => {
            let base_type_name = name.clone();
            let numbers = ExtensionNumberResponse { base_type_name, extension_number: Vec::new() };
            MessageResponse::AllExtensionNumbersResponse(numbers)
        }
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => files(None, "type", name),
        None => error(Code::InvalidArgument, "the request asks for nothing".to_owned()),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(response),
    }
}

fn files(found: Option<Vec<Bytes>>, what: &str, name: &str) -> MessageResponse {
    match found {
        Some(file_descriptor_proto) => {
            MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto,
            })
        }
        None => error(Code::NotFound, format!("{what} not found: {name}")),
    }
}

fn error(code: Code, error_message: String) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code as i32, error_message })
}
