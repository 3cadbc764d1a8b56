package identity_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"warder/daemon/identity"
)

const domain = "example.org"

var names = rapid.StringMatching(`[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}`)

func drawPrincipal(t *rapid.T) identity.Principal {
	return identity.Principal{
		Kind:      identity.Kind(rapid.IntRange(int(identity.Operator), int(identity.Node)).Draw(t, "kind")),
		Namespace: identity.MustName(names.Draw(t, "namespace")), Name: identity.MustName(names.Draw(t, "name")),
	}
}

func TestParseName(t *testing.T) {
	for text, good := range map[string]bool{
		"a": true, "0": true, "bot-1": true, "a-b-c": true, strings.Repeat("a", 63): true,
		"": false, "-": false, "-a": false, "a-": false, "a--b": false, strings.Repeat("a", 64): false,
		"A": false, "a_b": false, "a.b": false, "a b": false, " a": false, "a ": false, "a\n": false, "a\x00": false,
		"a/b": false, "a:b": false, "..": false, "a%62": false, "ä": false, "а": false /* Cyrillic */, "ａ": false, /* full width */
		"ﬁ": false, "a\u00ad": false, "a\u200d": false, "ı": false, "ſ": false, "\xff": false,
	} {
		name, err := identity.ParseName(text)
		if good != (err == nil) || good && name.String() != text || !good && (!errors.Is(err, identity.ErrName) || !name.IsZero()) {
			t.Errorf("ParseName(%q) = %q, %v; want it taken: %v", text, name, err, good)
		}
	}
}

// spellings gives texts that a reader, a shell, a database or a file system may take for the same as text.
func spellings(text string) []string {
	full := strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r + 0xfee0
		}
		return r
	}, text)
	all := []string{
		" " + text, text + " ", "\t" + text, text + "\n", text + "\r\n", text + "\x00", "\ufeff" + text, text + "\u200b",
		text + ".", "." + text, text + "/", "/" + text, text + "/.", "./" + text, "%20" + text, text + "#", text + "?",
		text + "\u0301", full, strings.ReplaceAll(text, "/", "//"), strings.ReplaceAll(text, "/", "%2f"), strings.ReplaceAll(text, "/", `\`),
		strings.ReplaceAll(text, "-", "--"), strings.ReplaceAll(text, "-", "\u2010"), strings.ReplaceAll(text, "-", "_"),
	}
	for i, r := range text {
		if upper := unicode.ToUpper(r); upper != r {
			all = append(all, text[:i]+string(upper)+text[i+1:])
		}
		all = append(all, text[:i]+"\u00ad"+text[i:], text[:i]+" "+text[i:])
	}
	for from, to := range map[string]string{"a": "а", "o": "о", "e": "е", "k": "\u212a", "s": "ſ", "i": "ı", "1": "１"} {
		all = append(all, strings.Replace(text, from, to, 1))
	}
	return all
}

// TestOneSpelling is the class of CVE-2025-6004 and its kin: no other text is ever the same, or another, principal.
func TestOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		principal := drawPrincipal(t)
		text, uri := principal.String(), principal.SPIFFE(domain).String()
		if back, err := identity.ParsePrincipal(text); err != nil || back != principal {
			t.Fatalf("ParsePrincipal(%q) = %v, %v", text, back, err)
		}
		for _, other := range spellings(text) {
			if found, err := identity.ParsePrincipal(other); other != text && err == nil {
				t.Fatalf("%q is taken for %v", other, found)
			}
		}
		if back, err := identity.ParseSPIFFE(uri, domain); err != nil || back != principal {
			t.Fatalf("ParseSPIFFE(%q) = %v, %v", uri, back, err)
		}
		for _, other := range spellings(uri) {
			if found, err := identity.ParseSPIFFE(other, domain); other != uri && err == nil {
				t.Fatalf("%q is taken for %v", other, found)
			}
		}
	})
}

func TestFromSPIFFE(t *testing.T) {
	want := identity.Principal{Kind: identity.Workload, Namespace: identity.MustName("default"), Name: identity.MustName("bot")}
	for text, good := range map[string]bool{
		"spiffe://example.org/ns/default/workload/bot":        true,
		"https://example.org/ns/default/workload/bot":         false,
		"spiffe://example.com/ns/default/workload/bot":        false,
		"spiffe://EXAMPLE.org/ns/default/workload/bot":        false,
		"spiffe://example.org:443/ns/default/workload/bot":    false,
		"spiffe://example.org:/ns/default/workload/bot":       false,
		"spiffe://user@example.org/ns/default/workload/bot":   false,
		"spiffe://@example.org/ns/default/workload/bot":       false,
		"spiffe://example.org/ns/default/workload/bot?":       false,
		"spiffe://example.org/ns/default/workload/bot?a=b":    false,
		"spiffe://example.org/ns/default/workload/bot#x":      false,
		"spiffe://example.org/ns/default/workload/b%6ft":      false,
		"spiffe://example.org/ns/default/workload/bot%2f":     false,
		"spiffe://example.org/ns/default/workload/bot/":       false,
		"spiffe://example.org/ns/default/workload/bot/x":      false,
		"spiffe://example.org/ns/default/workload//bot":       false,
		"spiffe://example.org//ns/default/workload/bot":       false,
		"spiffe://example.org/ns/x/../default/workload/bot":   false,
		"spiffe://example.org/NS/default/workload/bot":        false,
		"spiffe://example.org/ns/default/Workload/bot":        false,
		"spiffe://example.org/ns/default/admin/bot":           false,
		"spiffe://example.org/ns//workload/bot":               false,
		"spiffe://example.org/ns/default/workload/":           false,
		"spiffe://example.org/node/bot":                       false,
		"spiffe:///ns/default/workload/bot":                   false,
		"spiffe:ns/default/workload/bot":                      false,
		"/ns/default/workload/bot":                            false,
		"spiffe://example.org.evil.net/ns/default/workload/x": false,
		"": false,
	} {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		found, err := identity.FromSPIFFE(uri, domain)
		if good != (err == nil) || good && found != want || !good && (found != identity.Principal{} || !errors.Is(err, identity.ErrPrincipal)) {
			t.Errorf("FromSPIFFE(%q) = %v, %v; want it taken: %v", text, found, err, good)
		}
		found, err = identity.ParseSPIFFE(text, domain)
		if good != (err == nil) || good && found != want {
			t.Errorf("ParseSPIFFE(%q) = %v, %v; want it taken: %v", text, found, err, good)
		}
	}
	if _, err := identity.FromSPIFFE(nil, domain); !errors.Is(err, identity.ErrPrincipal) {
		t.Errorf("no URI at all: %v", err)
	}
	// What a parsed URL hides, the text shows.
	for _, text := range []string{"SPIFFE://example.org/ns/default/workload/bot", "spiffe://example.org/ns/default/workload/bot#"} {
		if found, err := identity.ParseSPIFFE(text, domain); err == nil {
			t.Errorf("ParseSPIFFE(%q) = %v; want it refused", text, found)
		}
	}
}

func TestCheckTrustDomain(t *testing.T) {
	for text, good := range map[string]bool{
		"example.org": true, "warder": true, "a_b-c.d": true, strings.Repeat("a", 255): true,
		"": false, "Example.org": false, "example.org:1": false, "u@example.org": false, "example.org/": false, strings.Repeat("a", 256): false,
	} {
		if err := identity.CheckTrustDomain(text); good != (err == nil) {
			t.Errorf("CheckTrustDomain(%q) = %v; want it taken: %v", text, err, good)
		}
	}
}

func TestJSON(t *testing.T) {
	type pair struct {
		Principal identity.Principal
		Name      identity.Name
	}
	want := pair{identity.Principal{Kind: identity.Device, Namespace: identity.MustName("plant"), Name: identity.MustName("d-1")}, identity.MustName("x")}
	for _, value := range []pair{want, {}} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var back pair
		if err := json.Unmarshal(text, &back); err != nil || back != value {
			t.Errorf("%s came back as %v, %v", text, back, err)
		}
	}
	var back pair
	if err := json.Unmarshal([]byte(`{"Principal":"Device:plant/d-1"}`), &back); !errors.Is(err, identity.ErrPrincipal) || back != (pair{}) {
		t.Errorf("a kind in capitals: %v, %v", back, err)
	}
}

func FuzzParseSPIFFE(f *testing.F) {
	f.Add("spiffe://example.org/ns/default/workload/bot")
	f.Add("spiffe://example.org/ns/a/device/b#")
	f.Fuzz(func(t *testing.T, text string) {
		found, err := identity.ParseSPIFFE(text, domain)
		if err == nil && found.SPIFFE(domain).String() != text {
			t.Errorf("%q is taken for %v", text, found)
		}
		uri, parseErr := url.Parse(text)
		if parseErr != nil {
			return
		}
		fromURI, uriErr := identity.FromSPIFFE(uri, domain)
		if err == nil && (uriErr != nil || fromURI != found) {
			t.Errorf("%q: as a text %v, as a URI %v, %v", text, found, fromURI, uriErr)
		}
	})
}

func FuzzParsePrincipal(f *testing.F) {
	f.Add("workload:default/bot")
	f.Fuzz(func(t *testing.T, text string) {
		if found, err := identity.ParsePrincipal(text); err == nil && found.String() != text {
			t.Errorf("%q is taken for %v", text, found)
		}
	})
}
