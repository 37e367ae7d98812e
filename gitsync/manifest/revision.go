package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pleachdev/pleach/reconcile"
)

// Revision is the hash of a pod template as it was rendered, before defaulting: 10 characters of
// [0-9a-z]. It depends on what the template says, not on how it is written.
func Revision(t *corev1.PodTemplateSpec) string {
	sum := sha256.Sum256(canonical(reflect.ValueOf(t), nil))
	n := new(big.Int).SetBytes(sum[:])
	n.Mod(n, new(big.Int).Exp(big.NewInt(36), big.NewInt(10), nil))
	return fmt.Sprintf("%010s", n.Text(36))
}

// digests hashes an object as rendered: all of it but status, and without metadata as well.
func digests(o reconcile.K8sObject) (whole, spec string) {
	v := reflect.New(reflect.TypeOf(o).Elem()).Elem()
	v.Set(reflect.ValueOf(o).Elem())
	if status := v.FieldByName("Status"); status.IsValid() {
		status.SetZero()
	}
	sum := sha256.Sum256(canonical(v, nil))
	whole = hex.EncodeToString(sum[:])
	v.FieldByName("ObjectMeta").Set(reflect.ValueOf(metav1.ObjectMeta{}))
	sum = sha256.Sum256(canonical(v, nil))
	return whole, hex.EncodeToString(sum[:])
}

// canonical writes a typed value as JSON with sorted keys. Zero values are left out unless a pointer
// says that they were written, so that a field which a later Kubernetes adds changes no hash.
// encoding/json would write the zero structs among them.
func canonical(v reflect.Value, b []byte) []byte {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return append(b, "null"...)
		}
		v = v.Elem()
	}
	if m, ok := marshaler(v); ok {
		j, err := m.MarshalJSON()
		if err != nil { // only a year outside [0,9999] does not marshal
			j, _ = json.Marshal(err.Error())
		}
		return append(b, j...)
	}
	switch v.Kind() {
	case reflect.Struct:
		fields := jsonFields(v.Type())
		names := make([]string, 0, len(fields))
		for name, f := range fields {
			if !empty(v.FieldByIndex(f.Index)) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, name)
			b = canonical(v.FieldByIndex(fields[name].Index), append(b, ':'))
		}
		return append(b, '}')
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, c reflect.Value) int { return strings.Compare(a.String(), c.String()) })
		b = append(b, '{')
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, k.String())
			b = canonical(v.MapIndex(k), append(b, ':'))
		}
		return append(b, '}')
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			j, _ := json.Marshal(v.Bytes()) // bytes always marshal
			return append(b, j...)
		}
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = canonical(v.Index(i), b)
		}
		return append(b, ']')
	default:
		j, _ := json.Marshal(v.Interface()) // strings, booleans and whole numbers always marshal
		return append(b, j...)
	}
}

func empty(v reflect.Value) bool {
	if k := v.Kind(); k == reflect.Map || k == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}

func marshaler(v reflect.Value) (json.Marshaler, bool) {
	if v.Kind() != reflect.Struct {
		return nil, false
	}
	if m, ok := reflect.TypeAssert[json.Marshaler](v); ok {
		return m, true
	}
	if !v.CanAddr() {
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		v = c
	}
	m, ok := reflect.TypeAssert[json.Marshaler](v.Addr())
	return m, ok
}

func appendString(b []byte, s string) []byte {
	j, _ := json.Marshal(s) // a string always marshals
	return append(b, j...)
}
