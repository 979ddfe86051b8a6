//! The one table of errors: replicated answers to gRPC codes, gRPC codes to HTTP.

use hyper::StatusCode;
use tripod_storage::Rejected;

use crate::client;

use super::{
    json::put_string,
    service::{Code, Status},
};

impl Code {
    /// The HTTP status the JSON gateway answers with.
    ///
    /// Source: answers of etcd 3.5.1; the remaining codes as grpc-gateway maps them.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::Cancelled => StatusCode::REQUEST_TIMEOUT,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unknown | Self::Internal | Self::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<Rejected> for Status {
    /// Source: etcd's `rpctypes`, which pairs each text with its code.
    fn from(rejected: Rejected) -> Self {
        let code = match &rejected {
            Rejected::Compacted { .. } | Rejected::FutureRevision => Code::OutOfRange,
            Rejected::LeaseNotFound => Code::NotFound,
            Rejected::LeaseExists => Code::FailedPrecondition,
            Rejected::KeyNotFound
            | Rejected::InvalidSortOption
            | Rejected::UserEmpty
            | Rejected::RoleEmpty
            | Rejected::AuthFailed
            | Rejected::PermissionNotGiven
            | Rejected::InvalidAuthManagement
            | Rejected::AuthOldRevision => Code::InvalidArgument,
            Rejected::PermissionDenied => Code::PermissionDenied,
            Rejected::InvalidAuthToken => Code::Unauthenticated,
            Rejected::RootUserMissing
            | Rejected::RootRoleMissing
            | Rejected::UserExists
            | Rejected::UserNotFound
            | Rejected::RoleExists
            | Rejected::RoleNotFound
            | Rejected::RoleNotGranted
            | Rejected::PermissionNotGranted
            | Rejected::AuthNotEnabled => Code::FailedPrecondition,
            Rejected::NoSpace | Rejected::AnswerTooLarge => Code::ResourceExhausted,
            Rejected::Corrupt => Code::DataLoss,
            _ => Code::Unknown,
        };
        Self::new(code, rejected.to_string())
    }
}

impl Status {
    /// The JSON body of a failed call: 3.5's shape, which contains 3.6's.
    pub fn json_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(2 * self.message.len() + 40);
        body.extend_from_slice(b"{\"error\":");
        put_string(&mut body, self.message.as_bytes());
        body.extend_from_slice(format!(",\"code\":{},\"message\":", self.code as u8).as_bytes());
        put_string(&mut body, self.message.as_bytes());
        body.push(b'}');
        body
    }

    /// The JSON line that ends a failed streaming call.
    pub fn json_stream_body(&self) -> Vec<u8> {
        let http = self.code.http_status();
        let mut body = Vec::with_capacity(self.message.len() + 96);
        let numbers = format!(
            "{{\"error\":{{\"grpc_code\":{},\"http_code\":{}",
            self.code as u8,
            http.as_u16()
        );
        body.extend_from_slice(numbers.as_bytes());
        body.extend_from_slice(b",\"message\":");
        put_string(&mut body, self.message.as_bytes());
        body.extend_from_slice(b",\"http_status\":");
        put_string(&mut body, http.canonical_reason().unwrap_or_default().as_bytes());
        body.extend_from_slice(b"}}");
        body
    }
}

impl From<client::Error> for Status {
    fn from(error: client::Error) -> Self {
        use client::{DowngradeRefused, Error, MemberRefused};
        let message = error.to_string();
        let code = match error {
            Error::Rejected(rejected) => return rejected.into(),
            Error::Invalid(_) | Error::TooLarge => Code::InvalidArgument,
            Error::TooManyRequests => Code::ResourceExhausted,
            Error::NoLeader
            | Error::Timeout
            | Error::LeaderLost
            | Error::Learner
            | Error::Stopped
            | Error::LeaderTransferTimeout => Code::Unavailable,
            Error::NotLeader | Error::BadLeaderTransferee => Code::FailedPrecondition,
            Error::LockLost | Error::NotElected | Error::NobodyElected => Code::Unknown,
            Error::LeaseTtlTooLarge => Code::OutOfRange,
            Error::Downgrade(refused) => match refused {
                DowngradeRefused::Format | DowngradeRefused::Target => Code::InvalidArgument,
                DowngradeRefused::InProgress | DowngradeRefused::NoneInProgress => {
                    Code::FailedPrecondition
                }
            },
            Error::Token(_) => Code::Unknown,
            Error::Snapshot | Error::Defragment => Code::Internal,
            Error::Member(refused) => match refused {
                MemberRefused::BadUrls => Code::InvalidArgument,
                MemberRefused::NotFound => Code::NotFound,
                MemberRefused::Busy | MemberRefused::Unhealthy => Code::Unavailable,
                _ => Code::FailedPrecondition,
            },
        };
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Status};

    #[test]
    fn every_code_has_etcds_http_status() {
        let cases = [
            (Code::Cancelled, 408),
            (Code::Unknown, 500),
            (Code::InvalidArgument, 400),
            (Code::DeadlineExceeded, 504),
            (Code::NotFound, 404),
            (Code::PermissionDenied, 403),
            (Code::ResourceExhausted, 429),
            (Code::FailedPrecondition, 400),
            (Code::OutOfRange, 400),
            (Code::Unimplemented, 501),
            (Code::Unavailable, 503),
            (Code::DataLoss, 500),
            (Code::Unauthenticated, 401),
        ];
        for (code, status) in cases {
            assert_eq!(code.http_status().as_u16(), status, "{code:?}");
        }
    }

    #[test]
    fn error_bodies_are_those_of_etcd_3_5() {
        let status = Status::new(Code::Unknown, "auth: user name is <empty>");
        assert_eq!(
            String::from_utf8(status.json_body()).unwrap(),
            r#"{"error":"auth: user name is \u003cempty\u003e","code":2,"message":"auth: user name is \u003cempty\u003e"}"#
        );
        assert_eq!(
            String::from_utf8(status.json_stream_body()).unwrap(),
            r#"{"error":{"grpc_code":2,"http_code":500,"message":"auth: user name is \u003cempty\u003e","http_status":"Internal Server Error"}}"#
        );
    }
}
