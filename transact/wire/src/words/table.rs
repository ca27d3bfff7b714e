//! The table: a line for each language under the name of each text.

use serde::Serialize;

macro_rules! table {
    ($($name:ident { en: $en:literal, de: $de:literal, fr: $fr:literal, es: $es:literal })*) => {
        /// All texts of one language. `{amount}`, `{payee}` and `{origin}` are filled in.
        #[derive(Debug, Serialize)]
        #[allow(missing_docs, reason = "the names say what the texts are about, the texts what they mean")]
        pub struct Words { $(pub $name: &'static str),* }

        pub(super) static EN: Words = Words { $($name: $en),* };
        pub(super) static DE: Words = Words { $($name: $de),* };
        pub(super) static FR: Words = Words { $($name: $fr),* };
        pub(super) static ES: Words = Words { $($name: $es),* };

        impl Words {
            /// Every text with its name.
            #[must_use]
            pub fn texts(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

table! {
    language {
        en: "Language",
        de: "Sprache",
        fr: "Langue",
        es: "Idioma"
    }
    title {
        en: "Pay {amount} to {payee}",
        de: "{amount} an {payee} zahlen",
        fr: "Payer {amount} à {payee}",
        es: "Pagar {amount} a {payee}"
    }
    heading {
        en: "Pay",
        de: "Zahlen:",
        fr: "Payer",
        es: "Pagar"
    }
    to {
        en: "To",
        de: "An",
        fr: "À",
        es: "A"
    }
    what {
        en: "For",
        de: "Für",
        fr: "Pour",
        es: "Por"
    }
    path_unknown {
        en: "Checking the private path…",
        de: "Der private Weg wird geprüft …",
        fr: "Vérification du chemin privé…",
        es: "Comprobando la vía privada…"
    }
    path_live {
        en: "The private path is live.",
        de: "Der private Weg steht.",
        fr: "Le chemin privé fonctionne.",
        es: "La vía privada funciona."
    }
    path_dead {
        en: "The private path cannot be reached. Your card number will not be sent. Use the connection of your member provider (not a VPN, nor another network), or pay another way at the shop.",
        de: "Der private Weg ist nicht erreichbar. Ihre Kartennummer wird nicht gesendet. Nutzen Sie den Anschluss Ihres teilnehmenden Anbieters (kein VPN und kein anderes Netz), oder zahlen Sie im Shop auf andere Weise.",
        fr: "Le chemin privé est injoignable. Votre numéro de carte ne sera pas envoyé. Utilisez la connexion de votre fournisseur membre (ni VPN, ni autre réseau), ou payez autrement auprès du magasin.",
        es: "No se puede acceder a la vía privada. Su número de tarjeta no se enviará. Use la conexión de su proveedor miembro (ni VPN ni otra red) o pague de otra forma en la tienda."
    }
    card_number {
        en: "Card number",
        de: "Kartennummer",
        fr: "Numéro de carte",
        es: "Número de tarjeta"
    }
    card_expiry {
        en: "Valid until (MM/YY)",
        de: "Gültig bis (MM/JJ)",
        fr: "Valable jusqu’au (MM/AA)",
        es: "Válida hasta (MM/AA)"
    }
    card_pin {
        en: "PIN, only for a debit card that asks for one",
        de: "PIN, nur für eine Debitkarte, die eine verlangt",
        fr: "Code PIN, seulement pour une carte de débit qui le demande",
        es: "PIN, solo para una tarjeta de débito que lo pida"
    }
    pay {
        en: "Pay {amount}",
        de: "{amount} zahlen",
        fr: "Payer {amount}",
        es: "Pagar {amount}"
    }
    pay_now {
        en: "Pay",
        de: "Zahlen",
        fr: "Payer",
        es: "Pagar"
    }
    note {
        en: "Your card number goes by your provider's private path to {origin} and nowhere else. This page works for this one purchase.",
        de: "Ihre Kartennummer geht auf dem privaten Weg Ihres Anbieters an {origin} und nirgendwo sonst hin. Diese Seite gilt für diesen einen Kauf.",
        fr: "Votre numéro de carte passe par le chemin privé de votre fournisseur vers {origin} et nulle part ailleurs. Cette page vaut pour ce seul achat.",
        es: "Su número de tarjeta va por la vía privada de su proveedor a {origin} y a ningún otro sitio. Esta página sirve solo para esta compra."
    }
    no_script {
        en: "Scripts are off in your browser. You can pay all the same: the answer comes as a page from {origin}. First look whether the private path is live:",
        de: "In Ihrem Browser sind Skripte aus. Sie können trotzdem zahlen: Die Antwort kommt als Seite von {origin}. Sehen Sie zuerst nach, ob der private Weg steht:",
        fr: "Les scripts sont désactivés dans votre navigateur. Vous pouvez payer quand même : la réponse vient comme page de {origin}. Vérifiez d’abord que le chemin privé fonctionne :",
        es: "Su navegador tiene los scripts desactivados. Puede pagar igualmente: la respuesta llega como página de {origin}. Compruebe antes que la vía privada funciona:"
    }
    summary {
        en: "Please look at this again:",
        de: "Bitte sehen Sie sich das noch einmal an:",
        fr: "Veuillez revoir ceci :",
        es: "Revise lo siguiente:"
    }
    number_length {
        en: "A card number has 12 to 19 digits.",
        de: "Eine Kartennummer hat 12 bis 19 Ziffern.",
        fr: "Un numéro de carte a de 12 à 19 chiffres.",
        es: "Un número de tarjeta tiene de 12 a 19 cifras."
    }
    number_mistyped {
        en: "This card number has a mistyped digit.",
        de: "In dieser Kartennummer ist eine Ziffer falsch.",
        fr: "Ce numéro de carte contient un chiffre erroné.",
        es: "Este número de tarjeta tiene una cifra equivocada."
    }
    expiry_form {
        en: "Give the expiry as MM/YY, such as 09/29.",
        de: "Geben Sie das Ablaufdatum als MM/JJ an, zum Beispiel 09/29.",
        fr: "Indiquez l’échéance sous la forme MM/AA, par exemple 09/29.",
        es: "Indique la caducidad como MM/AA, por ejemplo 09/29."
    }
    pin_form {
        en: "A PIN has 4 to 12 digits. Leave it out if your card has none.",
        de: "Eine PIN hat 4 bis 12 Ziffern. Lassen Sie sie weg, wenn Ihre Karte keine hat.",
        fr: "Un code PIN a de 4 à 12 chiffres. Laissez-le vide si votre carte n’en a pas.",
        es: "Un PIN tiene de 4 a 12 cifras. Déjelo vacío si su tarjeta no tiene."
    }
    invalid_card {
        en: "The card number, its expiry or its PIN is not right. Please type them again.",
        de: "Kartennummer, Ablaufdatum oder PIN stimmen nicht. Bitte geben Sie sie noch einmal ein.",
        fr: "Le numéro de carte, son échéance ou son code PIN n’est pas correct. Veuillez les saisir à nouveau.",
        es: "El número de tarjeta, su caducidad o su PIN no es correcto. Vuelva a escribirlos."
    }
    asking {
        en: "Asking the bank…",
        de: "Die Bank wird gefragt …",
        fr: "La banque est interrogée…",
        es: "Preguntando al banco…"
    }
    lost {
        en: "The private path cannot be reached. Look at the shop whether your order is paid.",
        de: "Der private Weg ist nicht erreichbar. Sehen Sie im Shop nach, ob Ihre Bestellung bezahlt ist.",
        fr: "Le chemin privé est injoignable. Vérifiez auprès du magasin si votre commande est payée.",
        es: "No se puede acceder a la vía privada. Mire en la tienda si su pedido está pagado."
    }
    ask_again {
        en: "Ask again",
        de: "Noch einmal fragen",
        fr: "Demander à nouveau",
        es: "Preguntar de nuevo"
    }
    open {
        en: "Not paid yet.",
        de: "Noch nicht bezahlt.",
        fr: "Pas encore payé.",
        es: "Aún no está pagado."
    }
    authorising {
        en: "The bank is being asked.",
        de: "Die Bank wird gerade gefragt.",
        fr: "La banque est en train d’être interrogée.",
        es: "Se está preguntando al banco."
    }
    approved {
        en: "Paid. You can go back to the shop.",
        de: "Bezahlt. Sie können zum Shop zurückgehen.",
        fr: "Payé. Vous pouvez retourner au magasin.",
        es: "Pagado. Puede volver a la tienda."
    }
    declined {
        en: "The bank refused this card. Nothing was charged.",
        de: "Die Bank hat diese Karte abgelehnt. Es wurde nichts abgebucht.",
        fr: "La banque a refusé cette carte. Rien n’a été débité.",
        es: "El banco ha rechazado esta tarjeta. No se ha cobrado nada."
    }
    reversing {
        en: "The bank did not answer in time. Whatever was charged is being taken back.",
        de: "Die Bank hat nicht rechtzeitig geantwortet. Was abgebucht wurde, wird zurückgebucht.",
        fr: "La banque n’a pas répondu à temps. Ce qui a été débité est en cours d’annulation.",
        es: "El banco no ha contestado a tiempo. Lo que se haya cobrado se está devolviendo."
    }
    reversed {
        en: "The bank did not answer in time. Nothing was charged.",
        de: "Die Bank hat nicht rechtzeitig geantwortet. Es bleibt nichts abgebucht.",
        fr: "La banque n’a pas répondu à temps. Rien n’est débité.",
        es: "El banco no ha contestado a tiempo. No queda nada cobrado."
    }
    expired {
        en: "This purchase was not paid in time. Order again at the shop.",
        de: "Dieser Kauf wurde nicht rechtzeitig bezahlt. Bestellen Sie im Shop noch einmal.",
        fr: "Cet achat n’a pas été payé à temps. Commandez à nouveau auprès du magasin.",
        es: "Esta compra no se pagó a tiempo. Haga el pedido de nuevo en la tienda."
    }
    locked {
        en: "This purchase was closed after too many wrong passwords. Order again at the shop.",
        de: "Dieser Kauf wurde nach zu vielen falschen Passwörtern geschlossen. Bestellen Sie im Shop noch einmal.",
        fr: "Cet achat a été fermé après trop de mots de passe erronés. Commandez à nouveau auprès du magasin.",
        es: "Esta compra se cerró tras demasiadas contraseñas equivocadas. Haga el pedido de nuevo en la tienda."
    }
    cancelled {
        en: "The shop has cancelled this purchase. Nothing was charged.",
        de: "Der Shop hat diesen Kauf storniert. Es wurde nichts abgebucht.",
        fr: "Le magasin a annulé cet achat. Rien n’a été débité.",
        es: "La tienda ha cancelado esta compra. No se ha cobrado nada."
    }
    no_match {
        en: "This purchase is not known, or its page is not the right one. Order again at the shop.",
        de: "Dieser Kauf ist nicht bekannt, oder seine Seite ist nicht die richtige. Bestellen Sie im Shop noch einmal.",
        fr: "Cet achat est inconnu, ou sa page n’est pas la bonne. Commandez à nouveau auprès du magasin.",
        es: "Esta compra no se conoce, o su página no es la correcta. Haga el pedido de nuevo en la tienda."
    }
    card_expired {
        en: "This card has expired. Nothing was sent to the bank: take another card.",
        de: "Diese Karte ist abgelaufen. Der Bank wurde nichts gesendet: Nehmen Sie eine andere Karte.",
        fr: "Cette carte a expiré. Rien n’a été envoyé à la banque : prenez une autre carte.",
        es: "Esta tarjeta ha caducado. No se ha enviado nada al banco: use otra tarjeta."
    }
    card_not_taken {
        en: "Cards of this kind are not taken. Nothing was sent to the bank: take another card.",
        de: "Karten dieser Art werden nicht angenommen. Der Bank wurde nichts gesendet: Nehmen Sie eine andere Karte.",
        fr: "Les cartes de ce type ne sont pas acceptées. Rien n’a été envoyé à la banque : prenez une autre carte.",
        es: "No se aceptan tarjetas de este tipo. No se ha enviado nada al banco: use otra tarjeta."
    }
    pin_not_taken {
        en: "PINs are not taken for this card. Nothing was sent to the bank: leave the PIN out or take another card.",
        de: "Für diese Karte werden keine PINs angenommen. Der Bank wurde nichts gesendet: Lassen Sie die PIN weg oder nehmen Sie eine andere Karte.",
        fr: "Les codes PIN ne sont pas acceptés pour cette carte. Rien n’a été envoyé à la banque : laissez le code vide ou prenez une autre carte.",
        es: "No se aceptan PIN para esta tarjeta. No se ha enviado nada al banco: deje el PIN vacío o use otra tarjeta."
    }
    bank_unreachable {
        en: "The bank cannot be reached now. Nothing was charged: try again.",
        de: "Die Bank ist gerade nicht erreichbar. Es wurde nichts abgebucht: Versuchen Sie es noch einmal.",
        fr: "La banque est injoignable pour le moment. Rien n’a été débité : réessayez.",
        es: "Ahora no se puede acceder al banco. No se ha cobrado nada: inténtelo de nuevo."
    }
    unavailable {
        en: "Payment is not available now. Look at the shop whether your order is paid, or try again.",
        de: "Zahlen ist gerade nicht möglich. Sehen Sie im Shop nach, ob Ihre Bestellung bezahlt ist, oder versuchen Sie es noch einmal.",
        fr: "Le paiement n’est pas disponible pour le moment. Vérifiez auprès du magasin si votre commande est payée, ou réessayez.",
        es: "Ahora no se puede pagar. Mire en la tienda si su pedido está pagado o inténtelo de nuevo."
    }
    unusable_title {
        en: "This page cannot be used",
        de: "Diese Seite ist nicht nutzbar",
        fr: "Cette page n’est pas utilisable",
        es: "Esta página no se puede usar"
    }
    unusable {
        en: "It was used before, has expired, or the address is mistyped. Nothing was charged by opening it. Go back to the shop and order again, or look there whether your order is paid.",
        de: "Sie wurde schon benutzt, ist abgelaufen, oder die Adresse ist falsch geschrieben. Durch das Öffnen wurde nichts abgebucht. Gehen Sie zum Shop zurück und bestellen Sie noch einmal, oder sehen Sie dort nach, ob Ihre Bestellung bezahlt ist.",
        fr: "Elle a déjà servi, elle a expiré, ou l’adresse est mal saisie. Rien n’a été débité en l’ouvrant. Retournez au magasin et commandez à nouveau, ou vérifiez-y si votre commande est payée.",
        es: "Ya se usó, ha caducado o la dirección está mal escrita. No se ha cobrado nada por abrirla. Vuelva a la tienda y haga el pedido de nuevo, o mire allí si su pedido está pagado."
    }
}
