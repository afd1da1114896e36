// Reads the documents of wamr-ota with other implementations of CBOR and COSE than the product's: fxamacker/cbor and go-cose, and for
// ML-DSA circl. A document in JSON on each line of standard input, an answer on each line of standard output.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

type document struct {
	Name string   `json:"name"`
	Kind string   `json:"kind"` // document, envelope, statement or plain
	Data string   `json:"data"`
	Keys []string `json:"keys"` // COSE_Keys that may sign it
}

type answer struct {
	Name       string   `json:"name"`
	Error      string   `json:"error"`
	Signatures int      `json:"signatures"`
	Algorithms []int64  `json:"algorithms"`
	Types      []string `json:"types"`
}

var (
	strict, _ = cbor.DecOptions{
		DupMapKey:             cbor.DupMapKeyEnforcedAPF,
		IndefLength:           cbor.IndefLengthForbidden,
		UTF8:                  cbor.UTF8RejectInvalid,
		MaxNestedLevels:       16,
		DefaultByteStringType: reflect.TypeOf(cbor.ByteString("")),
	}.DecMode()
	deterministic, _ = cbor.CoreDetEncOptions().EncMode()
)

// canonical decodes one item, and fails unless encoding it again gives the same bytes.
func canonical(data []byte) (any, error) {
	var value any
	if err := strict.Unmarshal(data, &value); err != nil {
		return nil, err
	}
	again, err := deterministic.Marshal(value)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, fmt.Errorf("not deterministic: %x is written as %x", data, again)
	}
	return value, nil
}

func inner(value any, what string) ([]byte, any, error) {
	wrapped, ok := value.(cbor.ByteString)
	if !ok {
		return nil, nil, fmt.Errorf("%s is no byte string", what)
	}
	found, err := canonical([]byte(wrapped))
	return []byte(wrapped), found, err
}

// mlDsa is a key of RFC 9964, which go-cose does not know.
type mlDsa struct {
	algorithm cose.Algorithm
	key       []byte
}

func (k mlDsa) Algorithm() cose.Algorithm { return k.algorithm }

func (k mlDsa) Verify(content, signature []byte) error {
	good := false
	switch k.algorithm {
	case -48:
		var key mldsa44.PublicKey
		good = key.UnmarshalBinary(k.key) == nil && mldsa44.Verify(&key, content, nil, signature)
	case -49:
		var key mldsa65.PublicKey
		good = key.UnmarshalBinary(k.key) == nil && mldsa65.Verify(&key, content, nil, signature)
	}
	if !good {
		return cose.ErrVerification
	}
	return nil
}

// verifier reads a COSE_Key; its thumbprint (RFC 9679) is the identifier under which it signs.
func verifier(encoded []byte) (string, cose.Verifier, error) {
	value, err := canonical(encoded)
	if err != nil {
		return "", nil, err
	}
	members, ok := value.(map[any]any)
	if !ok {
		return "", nil, errors.New("a key is no map")
	}
	required := map[any]any{}
	labels := map[any][]int64{uint64(1): {-1, -2}, uint64(2): {-1, -2, -3}, uint64(7): {3, -1}}[members[uint64(1)]]
	for _, label := range append([]int64{1}, labels...) {
		if label > 0 {
			required[uint64(label)] = members[uint64(label)]
		} else {
			required[label] = members[label]
		}
	}
	encodedRequired, err := deterministic.Marshal(required)
	if err != nil {
		return "", nil, err
	}
	thumbprint := sha256.Sum256(encodedRequired)
	if members[uint64(1)] == uint64(7) {
		algorithm, _ := members[uint64(3)].(int64)
		public, _ := members[int64(-1)].(cbor.ByteString)
		return string(thumbprint[:]), mlDsa{cose.Algorithm(algorithm), []byte(public)}, nil
	}
	var key cose.Key
	if err := key.UnmarshalCBOR(encoded); err != nil {
		return "", nil, err
	}
	found, err := key.Verifier()
	return string(thumbprint[:]), found, err
}

type reader struct {
	keys  map[string]cose.Verifier
	found *answer
}

// signature verifies a COSE_Sign1; `payload` is nil where it is inside.
func (r reader) signature(encoded, payload []byte) ([]byte, error) {
	if _, err := canonical(encoded); err != nil {
		return nil, err
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(encoded); err != nil {
		return nil, err
	}
	if (payload == nil) == (message.Payload == nil) {
		return nil, errors.New("the payload is not where it is expected")
	}
	if payload != nil {
		message.Payload = payload
	}
	name, _ := message.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	key, known := r.keys[string(name)]
	if !known {
		return nil, fmt.Errorf("no key has the thumbprint %x", name)
	}
	if err := message.Verify(nil, key); err != nil {
		return nil, err
	}
	algorithm, err := message.Headers.Protected.Algorithm()
	if err != nil {
		return nil, err
	}
	kind, _ := message.Headers.Protected[cose.HeaderLabelType].(string)
	r.found.Signatures++
	r.found.Algorithms = append(r.found.Algorithms, int64(algorithm))
	r.found.Types = append(r.found.Types, kind)
	return message.Payload, nil
}

func (r reader) signatures(list []any, payload []byte) error {
	for _, each := range list {
		encoded, ok := each.(cbor.ByteString)
		if !ok {
			return errors.New("a signature is no byte string")
		}
		if _, err := r.signature([]byte(encoded), payload); err != nil {
			return err
		}
	}
	return nil
}

func (r reader) document(value any) error {
	parts, ok := value.([]any)
	if !ok || len(parts) != 2 {
		return errors.New("not a payload with signatures")
	}
	payload, _, err := inner(parts[0], "the payload")
	if err != nil {
		return err
	}
	list, ok := parts[1].([]any)
	if !ok {
		return errors.New("no list of signatures")
	}
	return r.signatures(list, payload)
}

// envelope reads a SUIT envelope: what is signed is the digest of the manifest as a byte string.
func (r reader) envelope(value any) error {
	tag, ok := value.(cbor.Tag)
	members, isMap := tag.Content.(map[any]any)
	if !ok || tag.Number != 107 || !isMap {
		return errors.New("no SUIT envelope")
	}
	_, authentication, err := inner(members[uint64(2)], "the authentication")
	if err != nil {
		return err
	}
	blocks, ok := authentication.([]any)
	if !ok || len(blocks) == 0 {
		return errors.New("no authentication blocks")
	}
	digest, found, err := inner(blocks[0], "the digest")
	if err != nil {
		return err
	}
	_, manifest, err := inner(members[uint64(3)], "the manifest")
	if err != nil {
		return err
	}
	wrapped, err := deterministic.Marshal(members[uint64(3)])
	if err != nil {
		return err
	}
	sum := sha256.Sum256(wrapped)
	if pair, ok := found.([]any); !ok || len(pair) != 2 || pair[0] != int64(-16) || pair[1] != cbor.ByteString(sum[:]) {
		return errors.New("the digest is not that of the manifest")
	}
	parts, ok := manifest.(map[any]any)
	if !ok {
		return errors.New("the manifest is no map")
	}
	for _, member := range []uint64{3, 7, 9, 20} {
		if _, _, err := inner(parts[member], fmt.Sprintf("member %d", member)); err != nil {
			return err
		}
	}
	return r.signatures(blocks[1:], digest)
}

func read(each document, found *answer) error {
	data, err := hex.DecodeString(each.Data)
	if err != nil {
		return err
	}
	r := reader{map[string]cose.Verifier{}, found}
	for _, text := range each.Keys {
		encoded, err := hex.DecodeString(text)
		if err != nil {
			return err
		}
		name, key, err := verifier(encoded)
		if err != nil {
			return err
		}
		r.keys[name] = key
	}
	value, err := canonical(data)
	if err != nil {
		return err
	}
	switch each.Kind {
	case "document":
		return r.document(value)
	case "envelope":
		return r.envelope(value)
	case "statement":
		payload, err := r.signature(data, nil)
		if err == nil {
			_, err = canonical(payload)
		}
		return err
	case "plain":
		return nil
	}
	return fmt.Errorf("unknown kind %q", each.Kind)
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var each document
		if err := json.Unmarshal(lines.Bytes(), &each); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		found := answer{Name: each.Name}
		if err := read(each, &found); err != nil {
			found.Error = err.Error()
		}
		if err := out.Encode(found); err != nil {
			os.Exit(1)
		}
	}
}
