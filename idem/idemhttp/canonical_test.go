package idemhttp_test

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/idem/idemhttp"
)

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"null": "null", " true\n": "true", "false": "false", `""`: `""`, "[]": "[]", "{}": "{}", "[ ]": "[]", "{ }": "{}",
		`{"b":1,"a":[1, 2 ,{"d":null,"c":true}]}`: `{"a":[1,2,{"c":true,"d":null}],"b":1}`,
		// The examples of RFC 8785, sections 3.2.2 (but for its 333333333.33333329, which is refused below) and 3.2.3.
		`{"numbers":[333333333.3333333,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`:                                         "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
		`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`: "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		"\"\\u2028\u2029\\u007f\\b\\f\\t\\u0000<>&\"": "\"\u2028\u2029\u007f\\b\\f\\t\\u0000<>&\"",
		"0": "0", "-0": "0", "-0.0e5": "0", "0e999999999999": "0", "1.0": "1", "100": "100", "1e2": "100", "1E+2": "100", "-1.50": "-1.5",
		"0.1": "0.1", "1e-1": "0.1", "0.000001": "0.000001", "0.0000001": "1e-7", "1e20": "100000000000000000000", "1e21": "1e+21", "123e-20": "1.23e-18",
		"1e23": "1e+23", "9007199254740991": "9007199254740991", "9007199254740992": "9007199254740992", "9007199254740994": "9007199254740994",
		"1152921504606846976": "1152921504606846976", "1152921504606847000": "1152921504606847000", // 2^60, exact and as a double prints
		"1.7976931348623157e308": "1.7976931348623157e+308", "5e-324": "5e-324", "2.2250738585072014e-308": "2.2250738585072014e-308",
		"0.1000000000000000055511151231257827021181583404541015625": "0.1000000000000000055511151231257827021181583404541015625",
		"0." + strings.Repeat("0", 400) + "1e401":                   "1", "1" + strings.Repeat("0", 400) + "e-400": "1",
	} {
		got, err := idemhttp.CanonicalJSON([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("CanonicalJSON(%s)\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
}

func TestCanonicalJSON_case60_refuses(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"nothing": "", "space": " ", "two texts": "1 2", "trailing comma": "[1,]", "comment": "/**/1", "BOM": "\ufeff1", "single quotes": "'a'", "NaN": "NaN",
		"duplicate": `{"a":1,"a":1}`, "duplicate, escaped": `{"a":1,"b":2,"\u0061":1}`, "duplicate, unsorted": `{"b":1,"a":1,"b":1}`, "duplicate, nested": `[{"x":{"":1,"":1}}]`,
		"high surrogate": `"\ud800"`, "low surrogate": `"\udc00"`, "swapped": `"\udc00\ud800"`, "two high": `"\ud800\ud800"`, "high, text": `"\ud800x"`, "high, escape": `"\ud800\n"`, "in a name": `{"\udfff":1}`,
		"invalid UTF-8": "\"\xff\"", "overlong": "\"\xc0\x80\"", "surrogate in UTF-8": "\"\xed\xa0\x80\"",
		"2^53+1": "9007199254740993", "2^53+1 as fraction": "9007199254740993.0", "many digits": "333333333.33333329", "pi": "3.14159265358979323846264338327950288",
		"too large": "1e309", "much too large": "1e99999999999999999999", "too small": "1e-400", "much too small": "1e-99999999999999999999", "rounds up": "1.7976931348623158e308",
		"control": "\"\x01\"", "depth": strings.Repeat("[", 201) + strings.Repeat("]", 201), "depth 10000": strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
		"open brackets": strings.Repeat("[", 1<<20),
	} {
		got, err := idemhttp.CanonicalJSON([]byte(in))
		if err == nil {
			t.Errorf("%s: got %.100s, want an error", name, got)
		} else if strings.Contains(err.Error(), "\n") || len(err.Error()) > 150 {
			t.Errorf("%s: error %v", name, err)
		}
	}
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	if got, err := idemhttp.CanonicalJSON([]byte(deep)); err != nil || string(got) != deep {
		t.Errorf("200 levels: %v", err)
	}
	if _, err := idemhttp.CanonicalJSON([]byte(`["` + strings.Repeat(`[\"`, 300) + `"]`)); err != nil {
		t.Errorf("brackets in a string: %v", err)
	}
}

// Members that every level has in the wrong order cost no more than the depth allows.
func TestCanonicalJSON_case60_unsortedAtEveryLevel(t *testing.T) {
	t.Parallel()
	in := strings.Repeat(`{"b":`, 200) + `"` + strings.Repeat("x", 1<<20) + `"` + strings.Repeat(`,"a":1}`, 200)
	got, err := idemhttp.CanonicalJSON([]byte(in))
	if err != nil || len(got) != len(in) || !bytes.HasPrefix(got, []byte(`{"a":1,"b":{"a":1,"b":`)) {
		t.Errorf("got %.50s, %v", got, err)
	}
}

// reference is what two texts must agree in to have one canonical form: values as encoding/json reads them, with numbers
// as exact fractions.
func reference(text []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, false
	}
	return exact(v), true
}

// number is not the string of the same digits.
type number string

func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return v
		}
		return number(r.RatString())
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = exact(v[name])
		}
	}
	return v
}

func FuzzCanonicalJSON(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"a":1,"b":[true,null,"x"]}`, `{"b":[true,null,"\u0078"],"a":1.0}`},
		{`9007199254740992`, `9007199254740993`},
		{`1152921504606846976`, `1152921504606847000`},
		{`"\ud83d\ude00"`, `"😀"`},
		{`[1e2,0.10]`, `[100,1e-1]`},
		{`{"\u20ac":1,"\ud83d\ude00":2,"\ufb33":3}`, `{"דּ":3}`},
		{`-0`, `0`},
		{`""`, `"\u0000"`},
		{`[[[[]]]]`, `{}`},
		{`1e-400`, `0`},
		{"\"\xff\"", `"\ufffd"`},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		ca, errA := idemhttp.CanonicalJSON(a)
		if errA != nil {
			return
		}
		again, err := idemhttp.CanonicalJSON(ca)
		if err != nil || !bytes.Equal(again, ca) {
			t.Fatalf("CanonicalJSON(%s) = %s, and of that %s, %v", a, ca, again, err)
		}
		va, okA := reference(a)
		vc, okC := reference(ca)
		if !okA || !okC || !reflect.DeepEqual(va, vc) {
			t.Fatalf("%s has another value than %s", a, ca)
		}
		cb, errB := idemhttp.CanonicalJSON(b)
		if errB != nil {
			return
		}
		vb, _ := reference(b)
		if reflect.DeepEqual(va, vb) != bytes.Equal(ca, cb) {
			t.Fatalf("values equal: %v, canonical forms equal: %v\n%s\n%s", reflect.DeepEqual(va, vb), bytes.Equal(ca, cb), ca, cb)
		}
	})
}

// Every double is written in the form of ECMAScript, which encoding/json shares but for the spelling of exponents.
func FuzzCanonicalJSON_number(f *testing.F) {
	for _, x := range []float64{0, 1, -1.5, 0.1, 1e21, 1e-7, 123456789e-20, math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 60, 1e23, 999999999999999868928, 0.000001} {
		f.Add(math.Float64bits(x))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		x := math.Float64frombits(bits)
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return
		}
		text, err := json.Marshal(x)
		noError(t, err)
		want := string(text)
		if x == 0 {
			want = "0" // RFC 8785 has no -0
		}
		if got, err := idemhttp.CanonicalJSON(text); err != nil || string(got) != want {
			t.Errorf("CanonicalJSON(%s) = %s, %v; want %s", text, got, err, want)
		}
	})
}
