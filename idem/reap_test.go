package idem_test

import (
	"testing"

	"github.com/pgidem/pgidem/idem"
)

func TestReaper_case87_onlyWhatExpired(t *testing.T) {
	t.Parallel()
	pool := newPool(t)
	r := idem.Reaper{DB: pool}
	res, err := r.Reap(t.Context())
	t.Logf("%+v", res)
	noError(t, err)
	noError(t, idem.Check(t.Context(), pool))
	_, err = pool.Exec(t.Context(), `CALL idem.reap()`)
	noError(t, err)
}
