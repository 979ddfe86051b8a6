//! Golden outputs, recorded from etcdctl 3.5.1 on etcd 3.5.1.

use super::*;
use crate::{api::proto::mvccpb, cli::ctl::args::Format::*};

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 15_875_391_935_852_295_136,
        member_id: 7_383_792_418_829_112_008,
        revision,
        raft_term: 2,
    })
}

/// How the header reads in JSON and as fields.
fn header_json(revision: i64) -> String {
    let revision = if revision == 0 { String::new() } else { format!("\"revision\":{revision},") };
    format!(
        "\"cluster_id\":15875391935852295136,\"member_id\":7383792418829112008,{revision}\
         \"raft_term\":2"
    )
}

fn header_fields(revision: i64) -> String {
    format!(
        "\"ClusterID\" : 15875391935852295136\n\"MemberID\" : 7383792418829112008\n\
         \"Revision\" : {revision}\n\"RaftTerm\" : 2\n"
    )
}

fn pair(
    key: &str,
    value: &'static [u8],
    created: i64,
    modified: i64,
    version: i64,
) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: key.to_owned().into(),
        value: value.into(),
        create_revision: created,
        mod_revision: modified,
        version,
        lease: 0,
    }
}

fn print(format: Format, answer: &Answer<'_>) -> String {
    print_styled(Style { format, hex: false, value_only: false }, answer)
}

fn print_styled(style: Style, answer: &Answer<'_>) -> String {
    String::from_utf8_lossy(&style.print(answer).unwrap()).into_owned()
}

#[test]
fn put_with_the_previous_pair() {
    let answer = pb::PutResponse { header: header(6), prev_kv: Some(pair("a", b"1", 5, 5, 1)) };
    let answer = Answer::Put(&answer);
    assert_eq!(print(Simple, &answer), "OK\na\n1\n");
    assert_eq!(
        print(Json, &answer),
        format!(
            "{{\"header\":{{{}}},\"prev_kv\":{{\"key\":\"YQ==\",\"create_revision\":5,\
             \"mod_revision\":5,\"version\":1,\"value\":\"MQ==\"}}}}\n",
            header_json(6)
        )
    );
    assert_eq!(
        print(Fields, &answer),
        header_fields(6)
            + "\"PrevKey\" : \"a\"\n\"PrevCreateRevision\" : 5\n\"PrevModRevision\" : 5\n\
               \"PrevVersion\" : 1\n\"PrevValue\" : \"1\"\n\"PrevLease\" : 0\n"
    );
    let style = Style { format: Table, hex: false, value_only: false };
    let exit = style.print(&answer).unwrap_err();
    assert_eq!((exit.code, exit.message.as_str()), (4, "table not supported as output format"));
}

#[test]
fn range_with_binary_value_cut_by_its_limit() {
    let answer = pb::RangeResponse {
        header: header(27),
        kvs: vec![pair("k\"2", b"bin\x01\xff\n", 21, 21, 1)],
        more: true,
        count: 3,
    };
    let answer = Answer::Range(&answer);
    assert_eq!(
        print(Json, &answer),
        format!(
            "{{\"header\":{{{}}},\"kvs\":[{{\"key\":\"ayIy\",\"create_revision\":21,\
             \"mod_revision\":21,\"version\":1,\"value\":\"YmluAf8K\"}}],\"more\":true,\
             \"count\":3}}\n",
            header_json(27)
        )
    );
    assert_eq!(
        print(Fields, &answer),
        header_fields(27)
            + "\"Key\" : \"k\\\"2\"\n\"CreateRevision\" : 21\n\"ModRevision\" : 21\n\
               \"Version\" : 1\n\"Value\" : \"bin\\x01\\xff\\n\"\n\"Lease\" : 0\n\
               \"More\" : true\n\"Count\" : 3\n"
    );
    let hex = Style { format: Simple, hex: true, value_only: false };
    assert_eq!(print_styled(hex, &answer), "\\x6b\\x22\\x32\n\\x62\\x69\\x6e\\x01\\xff\\x0a\n");
    let values = Style { format: Simple, hex: true, value_only: true };
    assert_eq!(print_styled(values, &answer), "\\x62\\x69\\x6e\\x01\\xff\\x0a\n");
    // Raw bytes reach the output as they are.
    let raw = Style { format: Simple, hex: false, value_only: true };
    assert_eq!(raw.print(&answer).unwrap(), b"bin\x01\xff\n\n");
}

#[test]
fn txn_with_nested_answers() {
    use pb::response_op::Response;
    let inner = Some(pb::ResponseHeader { revision: 23, ..pb::ResponseHeader::default() });
    let answer = pb::TxnResponse {
        header: header(23),
        succeeded: false,
        responses: vec![pb::ResponseOp {
            response: Some(Response::ResponsePut(pb::PutResponse { header: inner, prev_kv: None })),
        }],
    };
    let answer = Answer::Txn(&answer);
    assert_eq!(print(Simple, &answer), "FAILURE\n\nOK\n");
    assert_eq!(
        print(Json, &answer),
        format!(
            "{{\"header\":{{{}}},\"responses\":[{{\"Response\":{{\"response_put\":\
             {{\"header\":{{\"revision\":23}}}}}}}}]}}\n",
            header_json(23)
        )
    );
    assert_eq!(
        print(Fields, &answer),
        header_fields(23)
            + "\"Succeeded\" : false\n\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 23\n\
               \"RaftTerm\" : 0\n"
    );
}

#[test]
fn watch_events_and_cancellations() {
    let put = pair("w", b"1", 30, 30, 1);
    let deleted = mvccpb::KeyValue { key: "w".into(), mod_revision: 32, ..Default::default() };
    let answer = pb::WatchResponse {
        header: header(33),
        events: vec![
            mvccpb::Event { r#type: 0, kv: Some(put.clone()), prev_kv: None },
            mvccpb::Event { r#type: 1, kv: Some(deleted), prev_kv: Some(put) },
        ],
        ..Default::default()
    };
    let answer = Answer::Watch(&answer);
    assert_eq!(print(Simple, &answer), "PUT\nw\n1\nDELETE\nw\n1\nw\n\n");
    assert_eq!(
        print(Json, &answer),
        format!(
            "{{\"Header\":{{{}}},\"Events\":[{{\"kv\":{{\"key\":\"dw==\",\"create_revision\":30,\
             \"mod_revision\":30,\"version\":1,\"value\":\"MQ==\"}}}},{{\"type\":1,\"kv\":\
             {{\"key\":\"dw==\",\"mod_revision\":32}},\"prev_kv\":{{\"key\":\"dw==\",\
             \"create_revision\":30,\"mod_revision\":30,\"version\":1,\"value\":\"MQ==\"}}}}],\
             \"CompactRevision\":0,\"Canceled\":false,\"Created\":false}}\n",
            header_json(33)
        )
    );
    let compacted = pb::WatchResponse {
        header: header(0),
        canceled: true,
        compact_revision: 2,
        ..Default::default()
    };
    assert_eq!(
        print(Json, &Answer::Watch(&compacted)),
        format!(
            "{{\"Header\":{{{}}},\"Events\":[],\"CompactRevision\":2,\"Canceled\":true,\
             \"Created\":false}}\n",
            header_json(0)
        )
    );
}

#[test]
fn leases() {
    let id = 1_353_509_861_906_086_834;
    let grant = pb::LeaseGrantResponse { header: header(7), id, ttl: 100, error: String::new() };
    assert_eq!(
        print(Simple, &Answer::Grant(&grant)),
        "lease 12c8a20c56e67bb2 granted with TTL(100s)\n"
    );
    assert_eq!(
        print(Json, &Answer::Grant(&grant)),
        format!("{{{},\"ID\":{id},\"TTL\":100,\"Error\":\"\"}}\n", header_json(7))
    );
    let ttl = pb::LeaseTimeToLiveResponse {
        header: header(35),
        id,
        ttl: 297,
        granted_ttl: 300,
        keys: vec!["l1".into(), "l2".into()],
    };
    assert_eq!(
        print(Simple, &Answer::TimeToLive { answer: &ttl, keys: true }),
        "lease 12c8a20c56e67bb2 granted with TTL(300s), remaining(297s), attached keys([l1 l2])\n"
    );
    assert_eq!(
        print(Json, &Answer::TimeToLive { answer: &ttl, keys: true }),
        format!(
            "{{{},\"id\":{id},\"ttl\":297,\"granted-ttl\":300,\"keys\":[\"bDE=\",\"bDI=\"]}}\n",
            header_json(35)
        )
    );
    let gone =
        pb::LeaseTimeToLiveResponse { header: header(7), id: 291, ttl: -1, ..Default::default() };
    assert_eq!(
        print(Simple, &Answer::TimeToLive { answer: &gone, keys: false }),
        "lease 0000000000000123 already expired\n"
    );
    assert_eq!(
        print(Json, &Answer::TimeToLive { answer: &gone, keys: false }),
        format!("{{{},\"id\":291,\"ttl\":-1,\"granted-ttl\":0,\"keys\":null}}\n", header_json(7))
    );
    let none = pb::LeaseLeasesResponse { header: header(36), leases: vec![] };
    assert_eq!(print(Simple, &Answer::Leases(&none)), "found 0 leases\n");
    assert_eq!(
        print(Json, &Answer::Leases(&none)),
        format!("{{{},\"leases\":[]}}\n", header_json(36))
    );
}

fn members() -> pb::MemberListResponse {
    pb::MemberListResponse {
        header: header(0),
        members: vec![pb::Member {
            id: 7_383_792_418_829_112_008,
            name: "default".to_owned(),
            peer_ur_ls: vec!["http://127.0.0.1:42380".to_owned()],
            client_ur_ls: vec!["http://127.0.0.1:42379".to_owned()],
            is_learner: false,
        }],
    }
}

#[test]
fn member_list_in_all_forms() {
    let members = members();
    let answer = Answer::MemberList(&members);
    assert_eq!(
        print(Simple, &answer),
        "667880157b8812c8, started, default, http://127.0.0.1:42380, http://127.0.0.1:42379, \
         false\n"
    );
    let table = "\
+------------------+---------+---------+------------------------+------------------------+------------+
|        ID        | STATUS  |  NAME   |       PEER ADDRS       |      CLIENT ADDRS      | IS LEARNER |
+------------------+---------+---------+------------------------+------------------------+------------+
| 667880157b8812c8 | started | default | http://127.0.0.1:42380 | http://127.0.0.1:42379 |      false |
+------------------+---------+---------+------------------------+------------------------+------------+
";
    assert_eq!(print(Table, &answer), table);
    assert_eq!(
        print(Fields, &answer),
        header_fields(0)
            + "\"ID\" : 7383792418829112008\n\"Name\" : \"default\"\n\
               \"PeerURL\" : \"http://127.0.0.1:42380\"\n\
               \"ClientURL\" : \"http://127.0.0.1:42379\"\n\"IsLearner\" : false\n\n"
    );
    let hex = Style { format: Json, hex: true, value_only: false };
    assert_eq!(
        print_styled(hex, &answer),
        "{\"header\":{\"cluster_id\":\"dc50b8daae93b3e0\",\"member_id\":\"667880157b8812c8\",\
         \"raft_term\":2},\"members\":[{\"ID\":\"667880157b8812c8\",\"name\":\"default\",\
         \"peerURLs\":[\"http://127.0.0.1:42380\"],\"clientURLS\":[\"http://127.0.0.1:42379\"]}]}\n"
    );
}

#[test]
fn endpoint_status_and_health() {
    let status = [EndpointStatus {
        endpoint: "127.0.0.1:42379".to_owned(),
        status: pb::StatusResponse {
            header: header(36),
            version: "3.5.1".to_owned(),
            db_size: 24_576,
            leader: 7_383_792_418_829_112_008,
            raft_index: 130,
            raft_term: 2,
            raft_applied_index: 130,
            errors: vec!["memberID:5 alarm:NOSPACE ".to_owned()],
            db_size_in_use: 20_480,
            ..Default::default()
        },
    }];
    let answer = Answer::Status(&status);
    assert_eq!(
        print(Simple, &answer),
        "127.0.0.1:42379, 667880157b8812c8, 3.5.1, 25 kB, true, false, 2, 130, 130, \
         memberID:5 alarm:NOSPACE \n"
    );
    assert_eq!(
        print(Json, &answer),
        format!(
            "[{{\"Endpoint\":\"127.0.0.1:42379\",\"Status\":{{\"header\":{{{}}},\
             \"version\":\"3.5.1\",\"dbSize\":24576,\"leader\":7383792418829112008,\
             \"raftIndex\":130,\"raftTerm\":2,\"raftAppliedIndex\":130,\
             \"errors\":[\"memberID:5 alarm:NOSPACE \"],\"dbSizeInUse\":20480}}}}]\n",
            header_json(36)
        )
    );
    let health = [
        EndpointHealth {
            endpoint: "127.0.0.1:42379".to_owned(),
            took: Duration::from_nanos(1_777_934),
            error: String::new(),
        },
        EndpointHealth {
            endpoint: "127.0.0.1:1".to_owned(),
            took: Duration::from_nanos(1_000_320_452),
            error: "context deadline exceeded".to_owned(),
        },
    ];
    let answer = Answer::Health(&health);
    assert_eq!(
        print(Simple, &answer),
        "127.0.0.1:42379 is healthy: successfully committed proposal: took = 1.777934ms\n"
    );
    let table = "\
+-----------------+--------+--------------+---------------------------+
|    ENDPOINT     | HEALTH |     TOOK     |           ERROR           |
+-----------------+--------+--------------+---------------------------+
| 127.0.0.1:42379 |   true |   1.777934ms |                           |
|     127.0.0.1:1 |  false | 1.000320452s | context deadline exceeded |
+-----------------+--------+--------------+---------------------------+
";
    assert_eq!(print(Table, &answer), table);
    assert_eq!(
        print(Json, &answer),
        "[{\"endpoint\":\"127.0.0.1:42379\",\"health\":true,\"took\":\"1.777934ms\"},\
         {\"endpoint\":\"127.0.0.1:1\",\"health\":false,\"took\":\"1.000320452s\",\
         \"error\":\"context deadline exceeded\"}]\n"
    );
}

#[test]
fn alarms_and_leadership() {
    let alarms = pb::AlarmResponse {
        header: None,
        alarms: vec![pb::AlarmMember { member_id: 5, alarm: 1 }],
    };
    let answer = Answer::Alarms(&alarms);
    assert_eq!(print(Simple, &answer), "memberID:5 alarm:NOSPACE \n");
    assert_eq!(print(Json, &answer), "{\"alarms\":[{\"memberID\":5,\"alarm\":1}]}\n");
    assert_eq!(print(Fields, &answer), "\"MemberID\" : 5\n\"AlarmType\" : NOSPACE\n\n");
    let moved = pb::MoveLeaderResponse::default();
    let answer = Answer::MoveLeader { from: 0x6678, to: 0x8e, answer: &moved };
    assert_eq!(print(Simple, &answer), "Leadership transferred from 6678 to 8e\n");
    assert_eq!(print(Json, &answer), "{}\n");
}
