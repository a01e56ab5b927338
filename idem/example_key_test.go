package idem_test

import (
	"fmt"

	"github.com/pgidem/pgidem/idem"
)

// Hash what makes the request this one. Parts are kept apart, so that nothing can move from one into the next.
func ExampleHashRequest() {
	body := []byte(`{"amount": 25000}`)
	first := idem.HashRequest([]byte("POST"), []byte("/applications/7/offers"), body)
	retry := idem.HashRequest([]byte("POST"), []byte("/applications/7/offers"), body)
	other := idem.HashRequest([]byte("POST"), []byte("/applications/8/offers"), body)
	fmt.Println(first == retry, first == other)
	// Output: true false
}

// A call to somebody else's system is not undone by a rollback, and fn may run again. With a derived key the other side
// recognises the repetition.
func ExampleKey_Derive() {
	key := idem.Key{Project: "acme", Endpoint: "POST /charges", Value: "8e03978e-40d5-43dd-bc93-6894a57f9324"}
	for range 2 { // fn runs, and runs again
		fmt.Println(key.Derive("authorize"), key.Derive("capture"))
	}
	// Output:
	// 9c7a34e2-dac5-8112-b138-63bb91d53b7d 34d78ff7-14c3-816b-9743-d5e262c61f57
	// 9c7a34e2-dac5-8112-b138-63bb91d53b7d 34d78ff7-14c3-816b-9743-d5e262c61f57
}

// JSON makes a response of a value.
func ExampleJSON() {
	resp, err := idem.JSON(201, map[string]any{"case": 7})
	fmt.Println(resp.Status, resp.Header, string(resp.Body), err)
	// Output: 201 map[Content-Type:[application/json]] {"case":7} <nil>
}
