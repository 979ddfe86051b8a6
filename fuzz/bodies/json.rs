//! Any JSON body for any message; what is accepted must print again and read back the same.

use tripod::api::json::{Documents, Schema};

/// Size limit of one document in these runs, in bytes.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// `choice` decides about the message.
pub(crate) fn run(choice: u8, text: &[u8]) {
    let schema = Schema::etcd();
    let messages: Vec<_> = schema.messages().collect();
    let message = messages[usize::from(choice) % messages.len()];

    let mut documents = Documents::new(DOCUMENT_BYTES_MAX);
    for piece in text.chunks(7) {
        documents.push(piece);
        while let Ok(Some(document)) = documents.next_document() {
            drop(schema.decode(message, &document));
        }
    }

    let Ok(decoded) = schema.decode(message, text) else { return };
    let mut printed = Vec::new();
    schema.encode(message, &decoded.wire, &mut printed).expect("what was read prints");
    let again = schema.decode(message, &printed).expect("what was printed reads");
    let mut reprinted = Vec::new();
    schema.encode(message, &again.wire, &mut reprinted).expect("what was read prints");
    assert_eq!(printed, reprinted);
}
