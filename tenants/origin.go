package tenants

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// SettingOrigins lists the origins whose scripts a browser lets read a tenant's answers, credentials included. Where
// nothing is set, those of every origin may, without credentials.
const SettingOrigins = "cors.origins"

// isOrigin says whether a text is an origin as browsers send it: scheme, host and a port that is not the scheme's own.
// "null", which any page can make itself, is none.
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || text != u.Scheme+"://"+u.Host {
		return false
	}
	host, err := ParseHost(u.Host)
	if err != nil || host == "" || host != u.Hostname() && host != "["+u.Hostname()+"]" {
		return false
	}
	return !strings.HasSuffix(u.Host, ":") && u.Port() != map[string]string{"https": "443", "http": "80"}[u.Scheme]
}

func areOrigins(value json.RawMessage) bool {
	var origins []string
	return json.Unmarshal(value, &origins) == nil && origins != nil && !slices.ContainsFunc(origins, func(o string) bool { return !isOrigin(o) })
}

// Origins are those that may read what a request's tenant answers; nil means every one. A preflight carries neither token
// nor header, so only the host says which tenant that is: by these contributors. Of a host that names nobody, what is set
// for everybody counts.
func (d *Directory) Origins(r *http.Request, byHost []Contributor) []string {
	value := d.Setting(nil, SettingOrigins)
	for _, c := range byHost {
		ref, found, err := c.Contribute(r)
		if err != nil {
			return []string{}
		}
		if !found {
			continue
		}
		if t, err := d.Tenant(r.Context(), ref); err == nil {
			value = d.Setting(t, SettingOrigins)
		}
		break
	}
	if value == nil {
		return nil
	}
	origins := []string{}
	if json.Unmarshal(value, &origins) != nil || origins == nil { // what cannot be read lets nobody in
		return []string{}
	}
	return origins
}
