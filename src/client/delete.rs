//! Deletes, and the memory that the previous values they ask for may take.

use tripod_storage::{
    auth::Ask,
    command::{Command, DeleteRange, DeleteRangeResponse, Response},
    mvcc::validate,
};

use super::{
    Answered, Client, Error,
    budget::{Budgeted, Share},
    unexpected,
};

impl Client {
    /// Deletes a key or range, in one revision.
    ///
    /// # Errors
    /// As [`Client::put`], and [`tripod_storage::Rejected::AnswerTooLarge`] for more previous values
    /// than one answer may hold; then nothing is deleted.
    ///
    /// Source: etcd `DeleteRangeRequest`.
    pub async fn delete_range(&self, delete: DeleteRange) -> Answered<DeleteRangeResponse> {
        let (header, Budgeted { answer, .. }) = self.delete_range_budgeted(delete).await?;
        Ok((header, answer))
    }

    /// As [`Client::delete_range`]; a long answer waits for its part of the memory that long answers
    /// may take together, and keeps that part until the share is dropped.
    pub(crate) async fn delete_range_budgeted(
        &self,
        delete: DeleteRange,
    ) -> Answered<Budgeted<DeleteRangeResponse>> {
        validate::delete_range(&delete)?;
        self.check_size(delete.key.len() + delete.range_end.len())?;
        let mut share = None;
        if delete.prev_kv && !delete.range_end.is_empty() {
            share = Box::pin(self.share_of_delete(&delete)).await?;
        }
        let (header, response) = self.propose(Command::DeleteRange(delete)).await?;
        match response {
            Response::DeleteRange(answer) => Ok((header, Budgeted { answer, share })),
            other => unexpected(&other),
        }
    }

    /// The part of the memory for long answers that the previous values of now would need. Whether
    /// they are too many is decided where the delete is applied: this member may be behind.
    async fn share_of_delete(&self, delete: &DeleteRange) -> Result<Option<Share>, Error> {
        self.refuse_learner()?;
        // Who may not read learns nothing about sizes either.
        self.permit_caught_up(&Ask::Command(&Command::DeleteRange(delete.clone()))).await?;
        let counted = self.node.state().read().delete_answer_bytes(delete);
        match counted {
            Ok(Ok(bytes)) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Ok(self.answers.take_if_long(bytes).await)
            }
            Ok(Err(_)) => Ok(None),
            Err(error) => {
                self.node.fail(&error);
                Err(Error::Stopped)
            }
        }
    }
}
