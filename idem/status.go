package idem

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// txStatus is what can be known of a transaction without a round trip.
type txStatus int

const (
	txOpen    txStatus = iota // or unknown
	txAborted                 // a statement failed in it
	txEnded                   // committed or rolled back
	txBusy                    // a query on its connection has not been read to its end
)

// statusOf asks tx itself first whether it is closed: the connection of a closed transaction may serve somebody else by
// now. An empty batch is how a pgx.Tx can be asked; it sends nothing.
func statusOf(tx pgx.Tx) txStatus {
	if err := tx.SendBatch(context.Background(), &pgx.Batch{}).Close(); errors.Is(err, pgx.ErrTxClosed) {
		return txEnded
	}
	return statusOn(tx.Conn())
}

// statusOn is statusOf for a transaction whose connection serves nobody else.
func statusOn(conn *pgx.Conn) txStatus {
	if conn == nil || conn.IsClosed() {
		return txOpen
	}
	switch {
	case conn.PgConn().TxStatus() == 'I':
		return txEnded
	case conn.PgConn().TxStatus() == 'E':
		return txAborted
	case conn.PgConn().IsBusy():
		return txBusy
	}
	return txOpen
}
