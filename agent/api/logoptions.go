package api

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The log endpoint takes the query parameters of Kubernetes' own.

func logOptions(values url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{Container: values.Get("container")}
	for name, field := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps} {
		text := values.Get(name)
		if text == "" {
			continue
		}
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%s: want true or false, got %q", name, text)
		}
		*field = b
	}
	for name, field := range map[string]**int64{"tailLines": &o.TailLines, "sinceSeconds": &o.SinceSeconds, "limitBytes": &o.LimitBytes} {
		text := values.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s: want a whole number from 0, got %q", name, text)
		}
		*field = &n
	}
	if text := values.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("sinceTime: want a time such as 2026-05-01T12:00:00Z, got %q", text)
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	return o, nil
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	values := url.Values{}
	set := func(name, value string) { values.Set(name, value) }
	if o.Container != "" {
		set("container", o.Container)
	}
	if o.Follow {
		set("follow", "true")
	}
	if o.Previous {
		set("previous", "true")
	}
	if o.Timestamps {
		set("timestamps", "true")
	}
	if o.TailLines != nil {
		set("tailLines", strconv.FormatInt(*o.TailLines, 10))
	}
	if o.SinceSeconds != nil {
		set("sinceSeconds", strconv.FormatInt(*o.SinceSeconds, 10))
	}
	if o.LimitBytes != nil {
		set("limitBytes", strconv.FormatInt(*o.LimitBytes, 10))
	}
	if o.SinceTime != nil {
		set("sinceTime", o.SinceTime.UTC().Format(time.RFC3339))
	}
	return values
}
