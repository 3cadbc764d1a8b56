package cli

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"warder/api/client"
	warderv1 "warder/api/warder/v1"
)

func (a *app) keys() *cobra.Command {
	return group("key", "Keep signing keys in custody and sign with them",
		a.keyCreate(), a.keyList(), a.keyShow(), a.keyRotate(), a.keySign(), a.keyDestroy())
}

func (a *app) keyCreate() *cobra.Command {
	var algorithm, custody, purpose, owner string
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a key",
		Example: "  warder key create meter-7 --custody hsm --owner device:plant/meter-7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				request := &warderv1.CreateKeyRequest{Namespace: namespace, Name: name}
				if err := keyRequest(request, algorithm, custody, purpose, owner); err != nil {
					return err
				}
				reply, err := c.Keys.CreateKey(cmd.Context(), request)
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { keyRows(t, reply.GetKey()) })
			})
		},
	}
	cmd.Flags().StringVar(&algorithm, "algorithm", "ecdsa-p256-sha256", "ecdsa-p256-sha256 or ed25519")
	cmd.Flags().StringVar(&custody, "custody", "hsm", "hsm: never in a process's memory; sealed: sealed by a data key")
	cmd.Flags().StringVar(&purpose, "purpose", "telemetry", "telemetry, firmware or order")
	cmd.Flags().StringVar(&owner, "owner", "", "the principal that it belongs to, for example device:plant/meter-7")
	_ = cmd.MarkFlagRequired("owner") // the flag exists
	return cmd
}

func keyRequest(request *warderv1.CreateKeyRequest, algorithm, custody, purpose, owner string) error {
	algorithmNumber, err := parseEnum("--algorithm", algorithm, "KEY_ALGORITHM_", warderv1.KeyAlgorithm_value)
	if err != nil {
		return err
	}
	custodyNumber, err := parseEnum("--custody", custody, "KEY_CUSTODY_", warderv1.KeyCustody_value)
	if err != nil {
		return err
	}
	purposeNumber, err := parseEnum("--purpose", purpose, "KEY_PURPOSE_", warderv1.KeyPurpose_value)
	if err != nil {
		return err
	}
	request.Algorithm = warderv1.KeyAlgorithm(algorithmNumber)
	request.Custody = warderv1.KeyCustody(custodyNumber)
	request.Purpose = warderv1.KeyPurpose(purposeNumber)
	request.Owner, err = parsePrincipal(owner, request.GetNamespace())
	return err
}

func keyRows(t *table, k *warderv1.Key) {
	t.row("key", slashed(k.GetNamespace(), k.GetName()))
	t.row("algorithm", word(k.GetAlgorithm(), "KEY_ALGORITHM_"))
	t.row("custody", word(k.GetCustody(), "KEY_CUSTODY_"))
	t.row("purpose", word(k.GetPurpose(), "KEY_PURPOSE_"))
	t.row("owner", principalText(k.GetOwner()))
	t.row("active version", k.GetActiveVersion())
	for _, v := range k.GetVersions() {
		sum := sha256.Sum256(v.GetPublicKey())
		t.row(fmt.Sprintf("version %d", v.GetNumber()), fmt.Sprintf("%s, created %s, public key sha256:%s",
			word(v.GetState(), "VERSION_STATE_"), when(v.GetCreatedAt()), hex.EncodeToString(sum[:])))
	}
}

func (a *app) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the namespace's keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.tokenCall("", "key.read", "namespace", func(c *client.Client, namespace, _ string) error {
				reply, err := pages(func(token string) (*warderv1.ListKeysResponse, error) {
					return c.Keys.ListKeys(cmd.Context(), &warderv1.ListKeysRequest{Namespace: namespace, PageToken: token})
				})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) {
					t.row("KEY", "ALGORITHM", "CUSTODY", "PURPOSE", "OWNER", "VERSION", "CREATED")
					for _, k := range reply.GetKeys() {
						t.row(slashed(k.GetNamespace(), k.GetName()), word(k.GetAlgorithm(), "KEY_ALGORITHM_"), word(k.GetCustody(), "KEY_CUSTODY_"),
							word(k.GetPurpose(), "KEY_PURPOSE_"), principalText(k.GetOwner()), k.GetActiveVersion(), when(k.GetCreatedAt()))
					}
				})
			})
		},
	}
}

func (a *app) keyShow() *cobra.Command {
	var public bool
	var version uint32
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Tell what is known of a key, or print its public key", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.tokenCall(args[0], "key.read", "key", func(c *client.Client, namespace, name string) error {
				reply, err := c.Keys.GetKey(cmd.Context(), &warderv1.GetKeyRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				if public {
					return a.printPublic(reply.GetKey(), version)
				}
				return a.show(reply, func(t *table) { keyRows(t, reply.GetKey()) })
			})
		},
	}
	cmd.Flags().BoolVar(&public, "public", false, "print the public key in PEM and nothing else")
	cmd.Flags().Uint32Var(&version, "version", 0, "with --public, this version (default: the active one)")
	return cmd
}

func (a *app) printPublic(key *warderv1.Key, version uint32) error {
	if version == 0 {
		version = key.GetActiveVersion()
	}
	for _, v := range key.GetVersions() {
		if v.GetNumber() == version {
			return pem.Encode(a.env.Stdout, &pem.Block{Type: "PUBLIC KEY", Bytes: v.GetPublicKey()})
		}
	}
	return localf("warder key show tells which there are", "key %s has no version %d", slashed(key.GetNamespace(), key.GetName()), version)
}

func (a *app) keyRotate() *cobra.Command {
	return &cobra.Command{
		Use: "rotate NAME", Short: "Make a new version active", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Keys.RotateKey(cmd.Context(), &warderv1.RotateKeyRequest{Namespace: namespace, Name: name})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { keyRows(t, reply.GetKey()) })
			})
		},
	}
}

func (a *app) keyDestroy() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "destroy NAME VERSION", Short: "Destroy the private key of one version for ever", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil {
				return localf("give the version's number", "version %q is not a number", args[1])
			}
			if err := a.confirm(yes, fmt.Sprintf("destroy version %d of key %s for ever", version, args[0])); err != nil {
				return err
			}
			return a.namedCall(args[0], func(c *client.Client, namespace, name string) error {
				reply, err := c.Keys.DestroyKeyVersion(cmd.Context(), &warderv1.DestroyKeyVersionRequest{Namespace: namespace, Name: name, Version: uint32(version)})
				if err != nil {
					return err
				}
				return a.show(reply, func(t *table) { keyRows(t, reply.GetKey()) })
			})
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) keySign() *cobra.Command {
	var digest, out, algorithm string
	cmd := &cobra.Command{
		Use:   "sign NAME [FILE]",
		Short: "Sign a file or a digest; prints the signature in base64, or writes it raw with --out",
		Long: `Sign a file (- for stdin) or a digest.

With ecdsa-p256-sha256 only the file's SHA-256 leaves this machine, and the signature is ASN.1 DER, as
"openssl dgst -sha256 -verify" wants it. With ed25519 the file itself is sent, at most 64 KiB.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := a.signRequest(algorithm, digest, args[1:])
			if err != nil {
				return err
			}
			return a.tokenCall(args[0], "key.sign", "key", func(c *client.Client, namespace, name string) error {
				request.Namespace, request.Name = namespace, name
				reply, err := c.Keys.SignWithKey(cmd.Context(), request)
				if err != nil {
					return err
				}
				if out != "" {
					return writeNew(out, reply.GetSignature(), 0o644)
				}
				return a.show(reply, func(t *table) { t.row(base64.StdEncoding.EncodeToString(reply.GetSignature())) })
			})
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "the SHA-256 digest in hex, instead of a file")
	cmd.Flags().StringVar(&out, "out", "", "file to write the raw signature to")
	cmd.Flags().StringVar(&algorithm, "algorithm", "ecdsa-p256-sha256", "the key's algorithm: ecdsa-p256-sha256 or ed25519")
	return cmd
}

func (a *app) signRequest(algorithm, digest string, files []string) (*warderv1.SignWithKeyRequest, error) {
	number, err := parseEnum("--algorithm", algorithm, "KEY_ALGORITHM_", warderv1.KeyAlgorithm_value)
	if err != nil {
		return nil, err
	}
	request := &warderv1.SignWithKeyRequest{Algorithm: warderv1.KeyAlgorithm(number)}
	if (digest == "") == (len(files) == 0) {
		return nil, local("nothing to sign, or two things", "give a file, or --digest, and not both")
	}
	if digest != "" {
		sum, err := hex.DecodeString(digest)
		if err != nil || len(sum) != sha256.Size {
			return nil, local("--digest is not 64 hexadecimal digits", "make it with: sha256sum FILE")
		}
		request.Input = &warderv1.SignWithKeyRequest_Digest{Digest: sum}
		return request, nil
	}
	data, err := a.readFile("file to sign", files[0])
	if err != nil {
		return nil, err
	}
	if request.GetAlgorithm() == warderv1.KeyAlgorithm_KEY_ALGORITHM_ED25519 {
		request.Input = &warderv1.SignWithKeyRequest_Message{Message: data}
		return request, nil
	}
	sum := sha256.Sum256(data)
	request.Input = &warderv1.SignWithKeyRequest_Digest{Digest: sum[:]}
	return request, nil
}
