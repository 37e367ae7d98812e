package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// checkShape compares a value with the Go type that it will be decoded into and reports every unknown
// field and every wrong type, where a decoder would stop at the first and name no line.
func checkShape(t reflect.Type, v *value) []Problem {
	c := shapeChecker{}
	c.check(t, v, "")
	return c.problems
}

type shapeChecker struct{ problems []Problem }

func (c *shapeChecker) fail(line int, path, format string, args ...any) {
	c.problems = append(c.problems, Problem{Line: line, Field: path, Reason: fmt.Sprintf(format, args...)})
}

// wanted names types that read themselves, by what a person should write.
var wanted = map[reflect.Type]string{
	reflect.TypeFor[resource.Quantity]():  "a quantity such as 500m or 128Mi",
	reflect.TypeFor[intstr.IntOrString](): "a whole number or a string",
	reflect.TypeFor[metav1.Time]():        "a time such as 2006-01-02T15:04:05Z",
	reflect.TypeFor[metav1.MicroTime]():   "a time such as 2006-01-02T15:04:05.000000Z",
	reflect.TypeFor[metav1.Duration]():    "a duration such as 1m30s",
}

func (c *shapeChecker) check(t reflect.Type, v *value, path string) {
	if v.kind == nullValue {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		if err := json.Unmarshal(v.appendJSON(nil), reflect.New(t).Interface()); err != nil {
			if want, ok := wanted[t]; ok {
				c.fail(v.line, path, "want %s, got %s", want, v)
			} else {
				c.fail(v.line, path, "%v", err)
			}
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		c.object(t, v, path)
	case reflect.Map:
		if v.kind != objectValue {
			c.fail(v.line, path, "want an object, got %s", v)
			return
		}
		for _, m := range v.members {
			c.check(t.Elem(), m.value, path+"["+m.key+"]")
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if v.kind != stringValue {
				c.fail(v.line, path, "want base64, got %s", v)
			} else if _, err := base64.StdEncoding.DecodeString(v.text); err != nil {
				c.fail(v.line, path, "want base64: %v", err)
			}
			return
		}
		if v.kind != listValue {
			c.fail(v.line, path, "want a list, got %s", v)
			return
		}
		for i, e := range v.items {
			c.check(t.Elem(), e, path+"["+strconv.Itoa(i)+"]")
		}
	default:
		c.scalar(t, v, path)
	}
}

func (c *shapeChecker) object(t reflect.Type, v *value, path string) {
	if v.kind != objectValue {
		c.fail(v.line, path, "want an object, got %s", v)
		return
	}
	fields := jsonFields(t)
	for _, m := range v.members {
		p := m.key
		if path != "" {
			p = path + "." + m.key
		}
		f, known := fields[m.key]
		if !known {
			hint := ""
			if near := nearest(m.key, fields); near != "" {
				hint = fmt.Sprintf(", did you mean %q?", near)
			}
			c.fail(m.line, p, "unknown field%s", hint)
			continue
		}
		c.check(f.Type, m.value, p)
	}
}

func (c *shapeChecker) scalar(t reflect.Type, v *value, path string) {
	switch t.Kind() {
	case reflect.String:
		switch v.kind {
		case stringValue:
		case numberValue:
			c.fail(v.line, path, "want a string, got the number %s: put it in quotes", v)
		case boolValue:
			c.fail(v.line, path, "want a string, got %s, which YAML reads as a boolean: put it in quotes", v)
		default:
			c.fail(v.line, path, "want a string, got %s", v)
		}
	case reflect.Bool:
		if v.kind != boolValue {
			c.fail(v.line, path, "want true or false, got %s", v)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if v.kind != numberValue {
			c.fail(v.line, path, "want a whole number, got %s", v)
		} else if _, err := strconv.ParseInt(v.text, 10, t.Bits()); err != nil {
			c.fail(v.line, path, "want a whole number of %d bits, got %s", t.Bits(), v)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if v.kind != numberValue {
			c.fail(v.line, path, "want a whole number, got %s", v)
		} else if _, err := strconv.ParseUint(v.text, 10, t.Bits()); err != nil {
			c.fail(v.line, path, "want a whole number of %d bits from 0, got %s", t.Bits(), v)
		}
	case reflect.Float32, reflect.Float64:
		if v.kind != numberValue {
			c.fail(v.line, path, "want a number, got %s", v)
		}
	default: // an interface holds anything
	}
}

var fieldCache sync.Map // reflect.Type to map[string]reflect.StructField

// jsonFields maps the JSON names of a struct, inlined structs included, to its fields.
func jsonFields(t reflect.Type) map[string]reflect.StructField {
	if m, ok := fieldCache.Load(t); ok {
		return m.(map[string]reflect.StructField)
	}
	m := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		name := jsonName(f)
		if f.IsExported() && name != "" && name != "-" {
			m[name] = f
		}
	}
	fieldCache.Store(t, m)
	return m
}

// jsonName is "" for a struct whose fields are inlined.
func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" && !f.Anonymous {
		return f.Name
	}
	return name
}

// nearest finds the known name that a misspelt one stands for, "" when none is near.
func nearest(name string, fields map[string]reflect.StructField) string {
	best, dist := "", 3
	for known := range fields {
		d := editDistance(strings.ToLower(name), strings.ToLower(known))
		if d < dist || d == dist && best != "" && known < best {
			best, dist = known, d
		}
	}
	if dist*3 > len(name) {
		return ""
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(diag+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
