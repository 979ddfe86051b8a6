//! Transactions, and the memory that their reads' answers may take.

use tripod_storage::{
    auth::Ask,
    command::{Command, Response, Txn, TxnResponse},
    mvcc::{answer::may_be_long, validate},
};

use super::{
    Answered, Client, Error,
    budget::{Budgeted, Share},
    unexpected,
};

impl Client {
    /// Compares, then runs one branch of operations in one revision. A transaction of top-level
    /// reads alone takes no log entry; `serializable` is about such ones (every read asked so).
    /// `size` is the request's encoded size in bytes.
    ///
    /// # Errors
    /// As [`Client::put`], [`Error::Invalid`] for too many or overlapping operations, and
    /// [`tripod_storage::Rejected::AnswerTooLarge`] for reads and previous values
    /// that would answer too much together.
    ///
    /// Source: etcd `TxnRequest`.
    pub async fn txn(&self, txn: Txn, serializable: bool, size: usize) -> Answered<TxnResponse> {
        let (header, Budgeted { answer, .. }) = self.txn_budgeted(txn, serializable, size).await?;
        Ok((header, answer))
    }

    /// As [`Client::txn`]; a long answer waits for its part of the memory that long answers may
    /// take together, and keeps that part until the share is dropped.
    pub(crate) async fn txn_budgeted(
        &self,
        txn: Txn,
        serializable: bool,
        size: usize,
    ) -> Answered<Budgeted<TxnResponse>> {
        validate::txn(&txn, self.limits.max_txn_ops)?;
        if validate::is_read_only(&txn) {
            return self.read_only_txn(&txn, serializable).await;
        }
        self.check_size(size)?;
        let mut share = None;
        if may_be_long(&txn) {
            self.refuse_learner()?;
            // Who may not read learns nothing about sizes either.
            self.permit_caught_up(&Ask::Txn(&txn)).await?;
            share = self.share_of(&txn).await?;
        }
        let (header, response) = self.propose(Command::Txn(txn)).await?;
        match response {
            Response::Txn(answer) => Ok((header, Budgeted { answer, share })),
            other => unexpected(&other),
        }
    }

    /// The part of the memory for long answers that the reads of `txn` need, in the branches that
    /// it would take now.
    async fn share_of(&self, txn: &Txn) -> Result<Option<Share>, Error> {
        let counted = self.node.state().read().txn_answer_bytes(txn);
        match counted {
            Ok(bytes) => {
                let bytes = usize::try_from(bytes?).unwrap_or(usize::MAX);
                Ok(self.answers.take_if_long(bytes).await)
            }
            Err(error) => {
                self.node.fail(&error);
                Err(Error::Stopped)
            }
        }
    }

    async fn read_only_txn(
        &self,
        txn: &Txn,
        serializable: bool,
    ) -> Answered<Budgeted<TxnResponse>> {
        self.refuse_learner()?;
        if !serializable {
            self.port.read_index().await?;
        }
        let mut share = None;
        if may_be_long(txn) {
            self.permit(&Ask::Txn(txn))?;
            share = self.share_of(txn).await?;
        }
        let read = {
            let machine = self.node.state().read();
            machine.authorize(&self.caller, &Ask::Txn(txn))?;
            machine.read_txn(txn).map(|answer| (machine.revision(), answer))
        };
        match read {
            Ok((revision, answer)) => {
                let answer = answer?;
                self.meters.count_ranges(answer.responses.len());
                Ok((self.header(revision), Budgeted { answer, share }))
            }
            Err(error) => {
                self.node.fail(&error);
                Err(Error::Stopped)
            }
        }
    }
}
